"""`imagine-bot demo`: the real bot in a simulated Discord, in the browser or as a script."""

from __future__ import annotations

import importlib.util
import logging

from .. import console
from ..errors import BotError

__all__ = ["play_once", "serve"]


class DemoNotInstalled(BotError):
    """The extra with the simulated Discord is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "The simulated Discord is not installed; add it with: pip install 'imagine-bot[demo]'."
        )


@console.one_sentence
def serve(port: int) -> int:
    """Serve the page until Ctrl-C, SIGTERM or the page itself ends it; return the exit code.

    Port 0 is any free port.
    """
    _prepare()
    from .page import serve_page  # noqa: PLC0415 - needs the extra

    return serve_page(port)


@console.one_sentence
def play_once() -> int:
    """Run /imagine, /vary and 🔁 without a browser; return 0 only if all three are answered."""
    _prepare()
    from .script import play  # noqa: PLC0415 - needs the extra

    return play()


def _prepare() -> None:
    if importlib.util.find_spec("simcord") is None:
        raise DemoNotInstalled
    console.set_up_logging("WARNING")
    # Deprecations and missing codecs for voice do not matter in a demo.
    for name in ("discord", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
