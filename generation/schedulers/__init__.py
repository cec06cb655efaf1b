"""The schedulers, and the course that one image takes through a schedule."""
