"""Jobs, images and recipes in SQLite and in files."""
