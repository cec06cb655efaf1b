"""`imagine-bot demo`: the real bot in a simulated Discord, in the browser or as a script."""

from __future__ import annotations

import importlib.util
import logging

from .. import console
from ..errors import BotError

__all__ = ["play_once", "serve"]


class DemoNotInstalled(BotError):
    """The simulated Discord is an extra that was not installed."""

    def __init__(self) -> None:
        super().__init__(
            "The simulated Discord is not installed; add it with: pip install 'imagine-bot[demo]'."
        )


@console.one_sentence
def serve(port: int) -> int:
    """Serve the page until it is ended, Ctrl-C or SIGTERM; return the exit code.

    Port 0 takes any that is free.
    """
    _prepare()
    from .page import serve_page  # noqa: PLC0415 - needs the extra

    return serve_page(port)


@console.one_sentence
def play_once() -> int:
    """Play /imagine, /vary and 🔁 without a browser; return 0 only if all three were answered."""
    _prepare()
    from .script import play  # noqa: PLC0415 - needs the extra

    return play()


def _prepare() -> None:
    if importlib.util.find_spec("simcord") is None:
        raise DemoNotInstalled
    console.set_up_logging("WARNING")
    # A person who looks at a demo can do nothing about a deprecation, or the codecs of voice bots.
    for name in ("discord", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
