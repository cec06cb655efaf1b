"""Asking Discord whether a message, a channel or a server is still there.

Discord tells the bot nothing of deletions while the bot is not connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Final

import discord
from discord.http import HTTPClient

from storage.records import Job

from ..jobs.courier_protocol import MessageGone, Unanswered, Undeliverable
from .codes import FAULTS, MISSING_ACCESS, RefusalKind, parsed, refusal_of
from .retry import Retry, Target

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS: Final = 2.0


async def exists(http: HTTPClient, channel_id: int, message_id: int | None) -> bool | None:
    """Return whether a message exists, or without an id its channel; None if Discord does not say.

    A single answer may be wrong, so nothing may be deleted here before a second one.
    """
    return await _is_found(
        http.get_channel(channel_id)
        if message_id is None
        else http.get_message(channel_id, message_id)
    )


async def _is_found(request: Awaitable[object]) -> bool | None:
    try:
        found = await parsed(request)
    except FAULTS as error:
        return False if refusal_of(error).kind is RefusalKind.GONE else None
    return True if isinstance(found, dict) else None


async def is_gone(http: HTTPClient, job: Job) -> bool:
    """Return whether Discord says twice that the message of a job was deleted.

    A command asks this once, for the picture that it names, since it costs requests. Without an
    answer in two seconds the message counts as there.
    """
    if job.message_id is None:
        return False
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            for _ in range(2):
                if await exists(http, job.channel_id, job.message_id) is not False:
                    return False
    except TimeoutError:
        return False
    return True


async def is_channel_gone(client: discord.Client, retry: Retry, channel_id: int) -> bool:
    """Return whether a channel or thread was deleted; wait while Discord is out of reach.

    A channel that the connection names exists. Discord has to say twice that another one is gone.
    """

    async def ask() -> None:
        await parsed(client.http.get_channel(channel_id))

    if client.get_channel(channel_id) is not None:
        return False
    try:
        await retry.run(ask, Target(partial(exists, client.http, channel_id, None)))
    except MessageGone:
        return client.get_channel(channel_id) is None
    except Undeliverable as error:
        log.info("Discord does not say whether channel %s exists: %s", channel_id, error)
    return False


async def has_left(client: discord.Client, retry: Retry, guild_id: int) -> bool:
    """Return whether the bot is no longer in a server; wait while Discord is out of reach.

    The bot counts as a member while its connection names the server, with or without an outage, and
    until Discord itself says that the bot has no access.
    """

    async def ask() -> None:
        await parsed(client.http.get_guild(guild_id, with_counts=False))

    if client.get_guild(guild_id) is not None:
        return False
    is_there = partial(_is_found_guild, client.http, guild_id)
    try:
        await retry.run(ask, Target(is_there))
    except MessageGone:
        # The bot may have joined again meanwhile.
        return client.get_guild(guild_id) is None
    except Unanswered:
        log.warning("Discord does not say whether the bot is in server %s", guild_id)
    except Undeliverable as error:
        cause = error.__cause__
        has_no_access = isinstance(cause, discord.HTTPException) and cause.code == MISSING_ACCESS
        return has_no_access and client.get_guild(guild_id) is None
    return False


async def _is_found_guild(http: HTTPClient, guild_id: int) -> bool | None:
    return await _is_found(http.get_guild(guild_id, with_counts=False))
