"""The one place where an error becomes the answer to an interaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import discord

from ..delivery.codes import FAULTS, RefusalKind, parsed, refusal_of
from ..errors import USER_ERRORS, sentence

log = logging.getLogger(__name__)

_PAUSES: Final = (0.3, 0.7, 0.0)
# Refusals that a person can do something about.
_EXPLAINED: Final = frozenset(
    {RefusalKind.FORBIDDEN, RefusalKind.FILTERED, RefusalKind.SMALLER, RefusalKind.ARCHIVED}
)


@asynccontextmanager
async def answering(
    interaction: discord.Interaction[Any], *, private: bool = False
) -> AsyncIterator[None]:
    """Answer any error that is raised inside with one private sentence.

    `private` says that the interaction, if deferred, was deferred for a private answer.

    Every command, button and modal runs inside this context: discord.py handles errors of the three
    differently, and only logs those of dynamic buttons.
    """
    try:
        yield
    except Exception as error:
        await tell(interaction, _sentence(error), private=private)


async def tell(interaction: discord.Interaction[Any], text: str, *, private: bool = False) -> None:
    """Answer `interaction` with a private sentence, deferred or not.

    Discord waits three seconds for an answer, so there is time for a few retries.
    """
    for pause in _PAUSES:
        try:
            await parsed(_tell(interaction, text, private=private))
            return
        except FAULTS as error:
            log.warning("Could not answer an interaction with %r: %s", text, error)
            if refusal_of(error).kind not in (RefusalKind.UNPROVEN, RefusalKind.WAIT):
                return
        await asyncio.sleep(pause)


async def _tell(interaction: discord.Interaction[Any], text: str, *, private: bool) -> None:
    if not interaction.response.is_done():
        await interaction.response.send_message(text, ephemeral=True)
        return
    is_deferred = (
        interaction.response.type is discord.InteractionResponseType.deferred_channel_message
    )
    if is_deferred and private:
        await interaction.edit_original_response(content=text, attachments=[], view=None)
        return
    if is_deferred:
        # An edit would make the sentence public, in place of the "thinking" message.
        with contextlib.suppress(discord.NotFound):
            await interaction.delete_original_response()
    await interaction.followup.send(text, ephemeral=True)


def _sentence(error: Exception) -> str:
    """Return the sentence for a person about `error`, which may be a refusal by Discord."""
    if isinstance(error, discord.HTTPException) and refusal_of(error).kind in _EXPLAINED:
        log.warning("Discord refuses an answer: %s", error)
        return refusal_of(error).sentence
    return sentence(error)


def shorten_suggestion_errors(record: logging.LogRecord) -> bool:
    """Replace the trace of failed suggestions with one line, if the error is an expected one.

    This is a filter for the log of discord.py. Most suggestions fail because they come too late:
    the person has typed on.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (*USER_ERRORS, *FAULTS)):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "A person who was typing got no suggestions: %s", (error,)
        record.exc_info = None
    return True
