"""/models: which models a person may use here, and the suggestions for the option `model`."""

from __future__ import annotations

from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from ..interactions.answers import answering
from ..interactions.requester import requester_of
from ..interactions.services import Services, services_of
from ..ui import messages

# Until a person chooses a suggestion, the option holds what they typed.
MODEL_NAME: Final = 100
_CHOICES: Final = 25


class Models(commands.Cog):
    """The /models command."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @app_commands.command()
    async def models(self, interaction: discord.Interaction[Any]) -> None:
        """See which models you may use here, and their licences; only you see the answer."""
        async with answering(interaction, private=True):
            usable = self._services.models.usable(requester_of(interaction))
            text = messages.models([model.listed for model in usable])
            await interaction.response.send_message(text, ephemeral=True, suppress_embeds=True)


async def suggest_models(
    interaction: discord.Interaction[Any], current: str
) -> list[app_commands.Choice[str]]:
    """Suggest the models that the person may use here and whose names have the typed text."""
    return _choices(interaction, current, that_edit=False)


async def suggest_editors(
    interaction: discord.Interaction[Any], current: str
) -> list[app_commands.Choice[str]]:
    """Suggest what `suggest_models` does, without models that cannot edit pictures."""
    return _choices(interaction, current, that_edit=True)


def _choices(
    interaction: discord.Interaction[Any], typed: str, *, that_edit: bool
) -> list[app_commands.Choice[str]]:
    found = services_of(interaction).models.suggestions(
        requester_of(interaction), typed, _CHOICES, that_edit=that_edit
    )
    return [app_commands.Choice(name=model.name, value=model.name) for model in found]
