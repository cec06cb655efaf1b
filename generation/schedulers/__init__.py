"""The schedulers: what there is, and the course that one image takes through a schedule."""
