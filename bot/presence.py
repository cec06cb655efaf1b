"""Whether what the bot has shown is still there: nobody tells it of deletions while it is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Final

import discord
from discord.http import HTTPClient

from storage.records import Job

from .delivery_codes import FAULTS, MISSING_ACCESS, Course, refusal_of, understood
from .retry import Place, Retry
from .service import MessageGone, Unanswered, Undeliverable

log = logging.getLogger(__name__)

_SECONDS: Final = 2.0


async def exists(http: HTTPClient, channel_id: int, message_id: int | None) -> bool | None:
    """Return whether a message, or without one its channel, is there; None if unknown.

    This is one answer, which may be wrong: what is deleted for it has to be asked for twice.
    """
    return await _is_found(
        http.get_channel(channel_id)
        if message_id is None
        else http.get_message(channel_id, message_id)
    )


async def _is_found(asking: Awaitable[object]) -> bool | None:
    try:
        found = await understood(asking)
    except FAULTS as error:
        return False if refusal_of(error).course is Course.GONE else None
    return True if isinstance(found, dict) else None


async def is_gone(http: HTTPClient, job: Job) -> bool:
    """Return whether Discord says twice that the message of a job was deleted.

    It costs a request, so it is asked once a command only, for a picture that is named. No answer
    within two seconds, or one that says something else, counts as there.
    """
    if job.message_id is None:
        return False
    try:
        async with asyncio.timeout(_SECONDS):
            for _ in range(2):
                if await exists(http, job.channel_id, job.message_id) is not False:
                    return False
    except TimeoutError:
        return False
    return True


async def is_channel_gone(client: discord.Client, retry: Retry, channel_id: int) -> bool:
    """Return whether a channel or thread that the connection does not name was deleted.

    It is asked for until Discord says twice that it is gone, or something else that is certain.
    """

    async def ask() -> None:
        await understood(client.http.get_channel(channel_id))

    if client.get_channel(channel_id) is not None:
        return False
    try:
        await retry.insist(ask, Place(partial(exists, client.http, channel_id, None)))
    except MessageGone:
        return client.get_channel(channel_id) is None
    except Undeliverable as error:
        log.info("Whether channel %s is there is not known: %s", channel_id, error)
    return False


async def has_left(client: discord.Client, retry: Retry, guild_id: int) -> bool:
    """Return whether the bot is no longer in a server.

    The bot counts as there while its connection names the server, even one with an outage, and
    until Discord itself says that the bot has no access to it. While Discord is out of reach this
    waits.
    """

    async def ask() -> None:
        await understood(client.http.get_guild(guild_id, with_counts=False))

    if client.get_guild(guild_id) is not None:
        return False
    asked_again = partial(_is_found_guild, client.http, guild_id)
    try:
        await retry.insist(ask, Place(asked_again))
    except MessageGone:
        # The bot may have been let in again meanwhile.
        return client.get_guild(guild_id) is None
    except Unanswered:
        log.warning("Discord does not say whether the bot is in server %s", guild_id)
    except Undeliverable as error:
        cause = error.__cause__
        is_shut_out = isinstance(cause, discord.HTTPException) and cause.code == MISSING_ACCESS
        return is_shut_out and client.get_guild(guild_id) is None
    return False


async def _is_found_guild(http: HTTPClient, guild_id: int) -> bool | None:
    return await _is_found(http.get_guild(guild_id, with_counts=False))
