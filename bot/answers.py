"""The one place where an error becomes the answer to an interaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import discord

from .delivery_codes import FAULTS, Course, refusal_of, understood
from .errors import USER_ERRORS, sentence

log = logging.getLogger(__name__)

_PAUSES: Final = (0.3, 0.7, 0.0)
# What of a refusal a person can do something about.
_SAID: Final = frozenset({Course.FORBIDDEN, Course.FILTERED, Course.SMALLER, Course.ARCHIVED})


@asynccontextmanager
async def answering(
    interaction: discord.Interaction[Any], *, private: bool = False
) -> AsyncIterator[None]:
    """Answer whatever is raised inside with one private sentence; nothing gets out.

    `private` says that the interaction is only ever deferred for a private answer.

    Every command, button and modal runs inside this, since discord.py treats errors of
    the three differently and only logs those of dynamic buttons.
    """
    try:
        yield
    except Exception as error:
        await tell(interaction, _sentence(error), private=private)


async def tell(interaction: discord.Interaction[Any], text: str, *, private: bool = False) -> None:
    """Answer `interaction` with a private sentence, whether it was deferred or not.

    Discord waits for three seconds, so an answer that makes no sense is worth a few more tries.
    """
    for pause in _PAUSES:
        try:
            await understood(_tell(interaction, text, private=private))
            return
        except FAULTS as error:
            log.warning("Could not answer an interaction with %r: %s", text, error)
            if refusal_of(error).course not in (Course.UNPROVEN, Course.WAIT):
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
        # The public "thinking" message would turn into the sentence: take it back instead.
        with contextlib.suppress(discord.NotFound):
            await interaction.delete_original_response()
    await interaction.followup.send(text, ephemeral=True)


def _sentence(error: Exception) -> str:
    """Return what to tell a person about `error`: for a refusal of Discord's, its meaning."""
    if isinstance(error, discord.HTTPException) and refusal_of(error).course in _SAID:
        log.warning("Discord refuses an answer: %s", error)
        return refusal_of(error).sentence
    return sentence(error)


def without_suggestions(record: logging.LogRecord) -> bool:
    """Say on one line why somebody who was typing got no suggestions, if that was foreseen.

    It is a filter for the log of discord.py, which writes a trace. Most come too late: the person
    has typed on.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (*USER_ERRORS, *FAULTS)):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "Somebody who was typing got no suggestions: %s", (error,)
        record.exc_info = None
    return True
