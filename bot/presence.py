"""Whether a message is still there: what was deleted while the bot was away, nobody told it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import aiohttp
import discord

from storage.records import Job

# Discord's codes for a channel and a message that are gone; anything else proves nothing.
_GONE: Final = frozenset({10003, 10008})
_SECONDS: Final = 2.0


class Messages(Protocol):
    """What gives access to a channel by its id: discord.py's client."""

    def get_partial_messageable(
        self, channel_id: int, *, guild_id: int | None = None
    ) -> discord.PartialMessageable:
        """Return the channel."""


async def is_gone(messages: Messages, job: Job) -> bool:
    """Return whether Discord says that the message of a job was deleted.

    It costs a request, so it is asked once a command only, for a picture that is named. No answer
    within two seconds, or one that says something else, counts as there.
    """
    if job.message_id is None:
        return False
    channel = messages.get_partial_messageable(job.channel_id, guild_id=job.guild_id)
    try:
        async with asyncio.timeout(_SECONDS):
            await channel.fetch_message(job.message_id)
    except discord.NotFound as error:
        return error.code in _GONE
    except (discord.HTTPException, aiohttp.ClientError, OSError):
        return False
    return False
