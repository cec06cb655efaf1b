"""What is done for the store in the background, or at the start."""
