"""The data folder: its file names, its lock, its free space and its permissions."""
