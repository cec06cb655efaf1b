"""The denoising loop, written by hand, and what it needs to share a device among many."""
