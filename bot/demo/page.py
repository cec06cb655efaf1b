"""The demo in the browser."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import webbrowser
import zoneinfo
from contextlib import suppress
from pathlib import Path
from typing import Final

from simcord.preview import Preview

from .. import console
from ..errors import BotError
from .follower import Follower
from .world import World, open_world

_LOCALTIME: Final = Path("/etc/localtime")
_HINT: Final = (
    "Click below, type `/imagine`, press Enter, type `rabbit face`, press Enter. Then click below, "
    "type `/vary`, press Tab, click `image`, type `1-1`, click `+5 more` and `prompt`, type "
    "`cat face`, press Enter. The buttons: 🔁 again, 🎲 vary, ❌ remove; the reaction 🔁 does the "
    "same. The small model here knows emoji by name, in `noto style` or `flat style`, on ten "
    "colours: `a red apple, flat style, on a blue background`."
)


class PageNotServed(BotError):
    """The page cannot be served at the requested port."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"The page cannot be served at port {port}; choose another with --port, or leave "
            "--port out for any free port."
        )


def serve_page(port: int) -> int:
    """Serve the page until it is closed or a signal stops the process; return the exit code.

    Raises:
        PageNotServed: the port is in use, or no port.
    """
    _check(port)
    return asyncio.run(_until_stopped(port))


def _check(port: int) -> None:
    """Check the port before the model is loaded."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        raise PageNotServed(port) from error


async def _until_stopped(port: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    serving = asyncio.create_task(_serve(port))
    await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    console.out.print("Stopped.")
    return 0


async def _serve(port: int) -> None:
    async with open_world() as world:
        await world.bob.send(world.channel, _HINT)
        preview = world.env.preview(
            world.channel,
            viewers=[world.alice, world.bob],
            layout="channel",
            timezone=_timezone(),
            port=port,
        )
        async with preview:
            await _present(world, preview)


def _timezone() -> str:
    """Return the name of this machine's time zone, such as Europe/Paris, or UTC."""
    _, _, name = str(_LOCALTIME.resolve()).partition("zoneinfo/")
    return name if name in zoneinfo.available_timezones() else "UTC"


async def _present(world: World, preview: Preview) -> None:
    following = asyncio.create_task(Follower(world, preview).run())
    try:
        console.out.print(f"Imagine Bot is at  {preview.url}", markup=False)
        console.out.print("That address is the key to the page. Ctrl-C stops the demo.")
        await asyncio.to_thread(open_browser, preview.url)
        await preview.wait_closed()
    finally:
        following.cancel()


def open_browser(url: str) -> None:
    """Open the page in a browser, if this machine has windows; its address is printed anyway."""
    environment = os.environ
    windows = (
        sys.platform == "darwin" or "DISPLAY" in environment or "WAYLAND_DISPLAY" in environment
    )
    if windows and environment.get("BROWSER") != "none":
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(url)
