"""`imagine-bot run`: the bot on Discord, from start to a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import discord

from . import console
from .client import ImagineBot, create_bot
from .config import Settings, load_settings
from .errors import ConfigError

log = logging.getLogger(__name__)

_LOGIN_MEND = (
    "Discord refused the token; copy it again from the Bot page of "
    "https://discord.com/developers/applications and set DISCORD_TOKEN to it."
)


@console.one_sentence
def run_bot(config: Path | None, *, data: Path | None) -> int:
    """Run the bot until it is told to stop; return the exit code.

    SIGINT and SIGTERM stop it at once; what is unfinished is taken up at the next start.
    """
    settings = load_settings(config, data=data)
    console.set_up_logging(settings.log_level)
    if settings.token is None or not settings.token.get_secret_value().strip():
        raise ConfigError(
            "There is no Discord token; set DISCORD_TOKEN, or token in config.toml (the README "
            "says how to get one)."
        )
    profile = console.locate_model(settings.model)
    return asyncio.run(_run(create_bot(settings, profile=profile), settings))


async def _run(bot: ImagineBot, settings: Settings) -> int:
    token = settings.token.get_secret_value().strip() if settings.token else ""
    try:
        async with bot:
            await _until_stopped(bot.start(token))
    except discord.LoginFailure as error:
        raise ConfigError(_LOGIN_MEND) from error
    except discord.PrivilegedIntentsRequired as error:
        raise ConfigError(
            "Discord refused an intent; Imagine Bot needs no privileged one, so this token "
            "belongs to an application that may not connect: make a new one."
        ) from error
    except discord.ConnectionClosed as error:
        raise ConfigError(
            f"Discord ended the connection (code {error.code}); if the token was reset, set "
            "DISCORD_TOKEN to the new one, and start the bot again."
        ) from error
    except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
        raise ConfigError(
            f"Discord cannot be reached ({error}); check the network and try again."
        ) from error
    if bot.failure is not None:
        raise bot.failure
    return 0


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or until SIGINT or SIGTERM cancel it, wherever it is."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    stopped = False

    def stop(name: str) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            log.info("%s: stopping; unfinished pictures are kept for the next start", name)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number.name)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
