"""The picture files and their rows in the database."""
