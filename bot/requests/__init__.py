"""From what a person typed or uploaded to a checked request."""
