"""`python -m bot` is `imagine-bot`."""

from .cli import main

# The engine's process imports this module again.
if __name__ == "__main__":
    main()
