"""The demo in the browser: a page that follows what the bot does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import webbrowser
from contextlib import suppress
from typing import Final

import simcord
from simcord.preview import Preview

from .. import console
from ..errors import BotError
from .world import World, open_world

_REFRESH_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 0.1
_HINT: Final = (
    "Type `/imagine`, press Enter, type `rabbit face`, press Enter. Then try the buttons: "
    "🔁 again, 🎲 vary, ❌ remove."
)


class PageNotServed(BotError):
    """The page cannot be served at the port that was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"The page cannot be served at port {port}; choose another with --port, or leave "
            "--port out for any that is free."
        )


def serve_page(port: int) -> int:
    """Serve the page until it is ended, or the process is told to stop; return the exit code.

    Raises:
        PageNotServed: the port is taken, or none.
    """
    return asyncio.run(_until_stopped(port))


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
        try:
            preview = world.env.preview(
                world.channel, viewers=[world.alice, world.bob], layout="channel", port=port
            )
            await preview.__aenter__()
        except simcord.SetupError as error:
            raise PageNotServed(port) from error
        try:
            await _present(world, preview)
        finally:
            await preview.close()


async def _present(world: World, preview: Preview) -> None:
    following = asyncio.create_task(_follow(world, preview))
    try:
        console.out.print(f"Imagine Bot is at  {preview.url}", markup=False)
        console.out.print("That address is the key to the page. Ctrl-C stops the demo.")
        await asyncio.to_thread(_open_browser, preview.url)
        await preview.wait_closed()
    finally:
        following.cancel()


async def _follow(world: World, preview: Preview) -> None:
    """Show on the page what the bot changes by itself, at most twice a second.

    Only then: publishing the page anew makes a click that comes in the same moment void.
    """
    changed = asyncio.Event()
    world.on_message_change(changed.set)
    while True:
        await changed.wait()
        changed.clear()
        await _refresh(preview)
        await asyncio.sleep(_REFRESH_SECONDS)


async def _refresh(preview: Preview) -> None:
    while True:
        try:
            await preview.refresh()
        except (simcord.SetupError, TimeoutError):
            # Somebody is just doing something on the page, or the bot is.
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


def _open_browser(url: str) -> None:
    """Open the page where there is a browser with a window; without one the address is printed."""
    if os.environ.get("BROWSER") == "none":
        return
    windows = sys.platform in ("darwin", "win32")
    if windows or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(url)
