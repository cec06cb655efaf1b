"""The SQLite file: its threads, its schema and its connections."""
