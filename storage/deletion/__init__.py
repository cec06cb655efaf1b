"""Deletion for good: rows, files, recipes in files, and remnants in the database file."""
