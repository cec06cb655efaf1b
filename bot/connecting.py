"""The login at Discord, with retries: at boot Discord may not be reachable yet."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Final

import discord
from discord.utils import MISSING

from .backoff import backoff
from .errors import ConfigError
from .network import GARBLED, UNREACHABLE

log = logging.getLogger(__name__)

# The seconds between two attempts while Discord cannot be reached.
DELAYS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_LOGIN_REFUSED: Final = (
    "Discord refused the token; copy it again from the Bot page of "
    "https://discord.com/developers/applications and set DISCORD_TOKEN to it."
)


async def log_in(bot: discord.Client, token: str) -> None:
    """Log in and set up `bot`; while Discord gives no proper answer, wait and retry.

    A login uses only Discord's REST API. It does not count as one of the day's sessions.

    Raises:
        ConfigError: Discord refused the token.
    """
    delays = spread_backoff(DELAYS)
    while True:
        try:
            await bot.login(token)
        except discord.LoginFailure as error:
            raise ConfigError(_LOGIN_REFUSED) from error
        except (*UNREACHABLE, *GARBLED) as error:
            if isinstance(error, GARBLED) and bot.application is not None:
                # The login itself succeeded, so this is a fault of the bot.
                raise
            delay = next(delays)
            log.warning(
                "Discord cannot be reached (%s); check the network. Trying again in %.0f s.",
                reason(error),
                delay,
            )
        else:
            return
        # Each login opens a new HTTP session, and leaves the one before open.
        await bot.http.close()
        bot.http.connector = MISSING
        await asyncio.sleep(delay)


def spread_backoff(delays: Sequence[float]) -> Iterator[float]:
    """Yield `backoff(delays)`, each shortened by a random part: many bots may start at once."""
    for delay in backoff(delays):
        yield delay * random.uniform(0.75, 1.0)  # noqa: S311 - nothing secret


def reason(error: Exception) -> str:
    """Return the error of a request as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: discord.ConnectionClosed | discord.PrivilegedIntentsRequired) -> ConfigError:
    """Return why Discord ended the connection to its gateway for good."""
    if isinstance(error, discord.PrivilegedIntentsRequired):
        return ConfigError(
            "Discord refused an intent; Imagine Bot needs no privileged one, so this token belongs "
            "to an application that may not connect: make a new one."
        )
    return ConfigError(
        f"Discord ended the connection (code {error.code}); if the token was reset, set "
        "DISCORD_TOKEN to the new one, and start the bot again."
    )
