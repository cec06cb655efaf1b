"""The rate limit as discord.py's check before each command, button, view and form."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands

from .services import services_of


class RateLimitedTree(app_commands.CommandTree[discord.Client]):
    """A command tree whose commands, menus and suggestions are under the rate limit."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Return whether the person is below the rate limit."""
        return await services_of(interaction).rate_limit.admits(interaction)


class RateLimited:
    """Puts buttons, views and forms under the rate limit, as the first of their base classes."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Return whether the person is below the rate limit."""
        return await services_of(interaction).rate_limit.admits(interaction)
