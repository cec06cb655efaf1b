"""The courier on Discord: progress and pictures that arrive."""
