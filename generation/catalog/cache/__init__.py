"""What the models on this machine take of disk and memory, and whether their files are whole."""
