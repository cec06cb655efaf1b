"""Image files: reading them within limits, and PNG files that hold a recipe."""
