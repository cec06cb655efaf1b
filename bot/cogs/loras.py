"""The option `lora` of commands, and its suggestions."""

from __future__ import annotations

from typing import Any, Final

import discord
from discord import app_commands

from generation.values.lora import LoraTag, listed_tags

from ..interactions.requester import requester_of
from ..interactions.services import services_of

# Discord allows no more in a choice.
LORAS_LENGTH: Final = 100
_CHOICES: Final = 25


async def suggest_loras(
    interaction: discord.Interaction[Any], typed: str
) -> list[app_commands.Choice[str]]:
    """Suggest the LoRAs that fit the model of the command; commas separate several LoRAs."""
    typed_so_far = interaction.namespace
    found = await services_of(interaction).loras.suggest(
        requester_of(interaction),
        typed,
        _CHOICES,
        model=getattr(typed_so_far, "model", None),
        # The picture that /vary starts from.
        picture=getattr(typed_so_far, "image", None),
    )
    return [
        app_commands.Choice(name=each.label[:LORAS_LENGTH], value=each.text)
        for each in found
        if len(each.text) <= LORAS_LENGTH
    ]


def chosen(lora: str | None) -> tuple[LoraTag, ...] | None:
    """Return the LoRAs that the option names; None if it was left out."""
    return None if lora is None else listed_tags(lora)
