"""The slash commands and listeners, one role a file."""
