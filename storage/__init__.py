"""What outlives the process: jobs and their recipes in SQLite, pictures in files.

One thread owns the database; the event loop never waits on disk.
"""
