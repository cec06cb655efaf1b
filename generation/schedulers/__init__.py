"""The schedulers, and the steps of one image through a schedule."""
