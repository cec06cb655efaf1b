"""The one place where an error becomes the answer to an interaction."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import discord

from .errors import sentence

log = logging.getLogger(__name__)


@asynccontextmanager
async def answering(interaction: discord.Interaction[Any]) -> AsyncIterator[None]:
    """Answer whatever is raised inside with one private sentence; nothing gets out.

    Every command, button and modal runs inside this, since discord.py treats errors of
    the three differently and only logs those of dynamic buttons.
    """
    try:
        yield
    except Exception as error:
        await tell(interaction, sentence(error))


async def tell(interaction: discord.Interaction[Any], text: str) -> None:
    """Answer `interaction` with a private sentence, whether it was deferred or not."""
    try:
        if not interaction.response.is_done():
            await interaction.response.send_message(text, ephemeral=True)
            return
        if interaction.response.type is discord.InteractionResponseType.deferred_channel_message:
            # The public "thinking" message would turn into the sentence: take it back instead.
            await interaction.delete_original_response()
        await interaction.followup.send(text, ephemeral=True)
    except discord.HTTPException as error:
        log.warning("Could not answer an interaction with %r: %s", text, error)
