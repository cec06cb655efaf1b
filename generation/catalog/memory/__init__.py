"""How a model takes less memory, and how much memory its parts take."""
