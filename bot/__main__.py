"""`python -m bot` is `imagine-bot`."""

from .cli import main

main()
