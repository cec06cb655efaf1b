"""Deleting for good: rows, files, recipes and what no row knows."""
