"""Who may see, use and remove what."""
