"""The command line, one command a module."""

from .app import main

__all__ = ["main"]
