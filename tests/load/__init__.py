"""What members can load the bot with."""
