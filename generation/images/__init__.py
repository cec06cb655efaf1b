"""Reading image files: bounded, and those from outside in a process of their own."""
