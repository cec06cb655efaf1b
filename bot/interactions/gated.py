"""The gate in front of commands, buttons, views and forms."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands

from .services import services_of


class GatedTree(app_commands.CommandTree[discord.Client]):
    """Commands, menus and suggestions behind the gate."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Return whether the interaction passes the gate."""
        return await services_of(interaction).gate.admits(interaction)


class Gated:
    """Puts buttons, views and forms behind the gate, as the first of their base classes."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Return whether the interaction passes the gate."""
        return await services_of(interaction).gate.admits(interaction)
