"""The demo in the browser."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import simcord
from simcord.preview import Preview

from .. import console
from .world import World, open_world, stop_signals

_REFRESH_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 0.1


def serve_page(port: int) -> int:
    """Serve the page until somebody ends it; return the exit code."""
    return asyncio.run(_serve(port))


async def _serve(port: int) -> int:
    stop = stop_signals()
    async with open_world() as world:
        await world.bob.send(
            world.channel,
            "Type `/imagine`, press Enter, type `rabbit face`, press Enter. Then try the buttons.",
        )
        preview = world.env.preview(
            world.channel, viewers=[world.alice, world.bob], layout="channel", port=port
        )
        async with preview:
            follower = asyncio.create_task(_follow(world, preview))
            _announce(preview.url)
            await _first(stop.wait(), preview.wait_closed())
            follower.cancel()
    console.out.print("Stopped.")
    return 0
