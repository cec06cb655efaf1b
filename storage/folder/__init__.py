"""The data folder itself: its room and its rights."""
