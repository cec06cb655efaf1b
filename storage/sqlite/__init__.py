"""The SQLite file: its threads, its schema, its connections and its integrity."""
