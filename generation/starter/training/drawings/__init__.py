"""What the starter model is shown: drawings from packages, arranged in scenes."""
