"""Persistent data: jobs and their recipes in SQLite, pictures in files.

One thread writes to the database; the event loop never waits for the disk.
"""
