"""`imagine-bot run`: the bot on Discord, until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import discord

from storage.folder.permissions import Privacy, make_private

from .. import console
from ..client import ImagineBot, create_bot
from ..config import Settings, read_settings
from ..connecting import explain, log_in
from ..errors import ConfigError
from ..interactions.answers import shorten_suggestion_errors
from ..requests.models import ModelOffer
from ..token import deny_inspection, find_token, forget_secrets, readable_by_others

log = logging.getLogger(__name__)

# EX_CONFIG of sysexits.h: a service manager should not restart the bot.
CONFIG_FAULT: Final = 78


@console.one_sentence
def run_bot(config: Path | None, *, data: Path | None) -> int:
    """Run the bot until a signal stops it; return the exit code.

    The code is `CONFIG_FAULT` if the token or the configuration has to be changed first.
    SIGINT and SIGTERM stop the bot at once; the next start continues unfinished jobs.
    """
    try:
        return _start(config, data=data)
    except ConfigError as error:
        console.complain(error)
        return CONFIG_FAULT


def _start(config: Path | None, *, data: Path | None) -> int:
    # Other users must not read the database and the pictures.
    os.umask(0o077)
    deny_inspection()
    settings, token, token_in = _configure(config, data=data)
    console.set_up_logging(settings.log_level)
    logging.getLogger("discord.app_commands.tree").addFilter(shorten_suggestion_errors)
    if readable_by_others(token_in):
        log.warning("Other users may read the token in %s; chmod 600 keeps them out", token_in)
    _keep_private(settings.data)
    offer = ModelOffer.locate(settings, console.locate_model)
    for name, error in offer.missing.items():
        log.warning("The model %s is not offered. %s", name, error)
    forget_secrets()
    return asyncio.run(_run(create_bot(settings, offer=offer), token))


def _keep_private(data: Path) -> None:
    match make_private(data):
        case Privacy.TIGHTENED:
            log.warning("Other users could read %s; now they cannot (chmod 700)", data)
        case Privacy.SHARED:
            log.warning(
                "Other users may read %s, which holds more than the bot's files; choose a folder "
                "for the bot alone with --data, or run chmod 700 on this one",
                data,
            )


def _configure(config: Path | None, *, data: Path | None) -> tuple[Settings, str, Path | None]:
    """Return the settings, the token, and the file that holds the token, if there is one.

    Raises:
        ConfigError: with a sentence for each fault of both.
    """
    reading = read_settings(config, data=data)
    try:
        token = find_token(reading.settings)
    except ConfigError as error:
        raise ConfigError(*reading.faults, *error.sentences) from error
    if reading.faults:
        raise ConfigError(*reading.faults)
    # Only the login needs the token.
    return reading.settings.model_copy(update={"token": None}), token, reading.token_in


async def _run(bot: ImagineBot, token: str) -> int:
    async with bot:
        await _until_stopped(_serve(bot, token))
    if bot.failure is not None:
        raise bot.failure
    return 0


async def _serve(bot: ImagineBot, token: str) -> None:
    """Log in and load the model; connect after that, since Discord limits sessions a day."""
    await log_in(bot, token)
    await bot.engine_loaded()
    try:
        await bot.connect()
    except (discord.ConnectionClosed, discord.PrivilegedIntentsRequired) as error:
        raise explain(error) from error


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or until SIGINT or SIGTERM cancels it."""
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
