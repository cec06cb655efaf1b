"""Whether what the bot has shown is still there: nobody tells it of deletions while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from discord.http import HTTPClient

from storage.records import Job

from .delivery_codes import FAULTS, Course, refusal_of, understood

_SECONDS: Final = 2.0


async def exists(http: HTTPClient, channel_id: int, message_id: int | None) -> bool | None:
    """Return whether a message, or without one its channel, is there; None if unknown.

    This is one answer, which may be wrong: what is deleted for it has to be asked for twice.
    """
    asking: Awaitable[object] = (
        http.get_channel(channel_id)
        if message_id is None
        else http.get_message(channel_id, message_id)
    )
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
