"""`python -m bot` is `imagine-bot`."""

from .cli.app import main

# The engine's process imports this module again.
if __name__ == "__main__":
    main()
