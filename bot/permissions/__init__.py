"""What members may see, use and remove, and where the bot may post."""
