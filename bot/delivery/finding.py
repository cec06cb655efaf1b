"""Finding the message that answers a job, when its id was never recorded.

A crash may come between the sending of a message and the recording of its id. The message is known
by its remove button, which holds the job's id, or by the interaction that it answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Final

import discord

from storage.records import Job

from ..ui.actions import remove_ids
from .channels import channel_of
from .codes import RefusalKind, parsed, refusal_of

_SEARCHED: Final = 200
_CLOCK_DIFFERENCE: Final = timedelta(minutes=1)


async def find_answer(client: discord.Client, job: Job) -> int | None:
    """Return the id of the message in the job's channel that answers the job, if there is one.

    Raises:
        DiscordException: Discord did not let the bot look, for another reason than a permission.
    """
    channel = channel_of(client, job)
    # The answer usually stands right after the request. An answer that was posted again is among
    # the latest messages. A reaction has no id, only this machine's time, and Discord's may differ.
    asked_at = job.created_at - _CLOCK_DIFFERENCE
    after = discord.Object(_interaction_of(job) or discord.utils.time_snowflake(asked_at))
    histories = (
        channel.history(limit=_SEARCHED, after=after, oldest_first=True),
        channel.history(limit=_SEARCHED),
    )
    try:
        for history in histories:
            if (found := await parsed(_answer_in(history, client, job))) is not None:
                return found
    except discord.HTTPException as error:
        if refusal_of(error).kind is not RefusalKind.FORBIDDEN:
            raise
        # Without the permission to read the history, nothing can be found.
    return None


async def _answer_in(
    history: AsyncIterator[discord.Message], client: discord.Client, job: Job
) -> int | None:
    async for message in history:
        if message.author == client.user and _answers(message, job):
            return message.id
    return None


def _answers(message: discord.Message, job: Job) -> bool:
    # An older message belongs to another job: the buttons of the first version held no token, and
    # a new database counts its ids from 1 again. A message that still says that the bot is thinking
    # can be edited only by the token of its interaction, which is lost.
    if message.id <= _asked_at(job) or message.flags.loading:
        return False
    wanted = remove_ids(job)
    if any(getattr(item, "custom_id", None) in wanted for item in _components(message)):
        return True
    metadata = message.interaction_metadata
    return metadata is not None and metadata.id == _interaction_of(job)


def _components(message: discord.Message) -> Iterable[object]:
    for row in message.components:
        yield from getattr(row, "children", ())


def _interaction_of(job: Job) -> int | None:
    kind, _, number = (job.origin or "").partition(":")
    return int(number) if kind == "interaction" else None


def _asked_at(job: Job) -> int:
    """Return an id older than any answer: of the interaction, or of the message reacted to."""
    _, _, rest = (job.origin or "").partition(":")
    number = rest.partition(":")[0]
    return int(number) if number.isdecimal() else 0
