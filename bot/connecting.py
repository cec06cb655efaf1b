"""From the token to a login at Discord, which may not be reachable yet, as at boot."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

import aiohttp
import discord
from discord.utils import MISSING

from .delivery_codes import GARBLED
from .errors import ConfigError

log = logging.getLogger(__name__)

UNREACHABLE: Final = (discord.HTTPException, discord.RateLimited, aiohttp.ClientError, OSError)
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_LOGIN_REFUSED: Final = (
    "Discord refused the token; copy it again from the Bot page of "
    "https://discord.com/developers/applications and set DISCORD_TOKEN to it."
)


async def log_in(bot: discord.Client, token: str) -> None:
    """Log in and set up `bot`; while Discord cannot be reached, wait and try again.

    A login asks Discord's REST API only: it takes none of the sessions that Discord counts.

    Raises:
        ConfigError: Discord refused the token.
    """
    attempts = 0
    while True:
        try:
            await bot.login(token)
        except discord.LoginFailure as error:
            raise ConfigError(_LOGIN_REFUSED) from error
        except (*UNREACHABLE, *GARBLED) as error:
            if isinstance(error, GARBLED) and bot.application is not None:
                # Not of an answer: the login was over.
                raise
            pause = pause_after(attempts)
            log.warning(
                "Discord cannot be reached (%s); check the network. Trying again in %.0f s.",
                reason(error),
                pause,
            )
        else:
            return
        # Each login opens a session of its own, and would leave the one before it open.
        await bot.http.close()
        bot.http.connector = MISSING
        attempts += 1
        await asyncio.sleep(pause)


def pause_after(attempts: int) -> float:
    """Return how many seconds to wait after `attempts` failures and one more.

    They double up to a minute. A part is random, so that many bots do not come at one time.
    """
    longest: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempts, 16))
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 - nothing secret


def reason(error: Exception) -> str:
    """Return what went wrong with a request, on one line."""
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
