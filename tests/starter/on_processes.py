"""The training commands on the small album, for processes of their own."""

from __future__ import annotations

from generation.starter import train as commands

from .album import TINY, album


def main() -> None:
    """Run the command that the arguments say."""
    commands.fetch_sources = lambda _: None
    commands.open_album = lambda *_: album()
    commands.Shape = lambda: TINY  # type: ignore[assignment, misc]
    commands.app()


if __name__ == "__main__":
    main()
