"""Complete copies of a data folder, also while the bot runs, and their restoration."""
