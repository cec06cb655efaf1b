"""The gate that every interaction and reaction passes: so many of one person, whatever they ask.

It stands before anything is looked up. Nobody meets it who uses the bot by hand: what it stops
comes from programs. The bounds on what is being made are elsewhere: `generation.admission` for
jobs, `bot.memory` for pictures.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import discord
from discord import app_commands

from .buckets import Buckets, Policy
from .delivery_codes import FAULTS, understood

if TYPE_CHECKING:
    from .client import ImagineBot

log = logging.getLogger(__name__)

# Commands, buttons, forms and reactions. Who clears up by hand takes three a second for a while.
_ASKING: Final = Policy(burst=60, rate=2)
# Discord asks for suggestions with every few letters.
_TYPING: Final = Policy(burst=40, rate=5)
# What is above that is answered so often, and then not at all.
_ANSWERS: Final = Policy(burst=3, rate=0.2)
_LOGGED: Final = Policy(burst=1, rate=1 / 600)
_TOO_MANY: Final = "You are asking faster than I can keep up with; please wait a minute."


class Gate:
    """Counts what each person sends, and turns away what is too much."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._asking = Buckets(_ASKING, clock)
        self._typing = Buckets(_TYPING, clock)
        self._answers = Buckets(_ANSWERS, clock)
        self._logged = Buckets(_LOGGED, clock)

    def passes(self, user_id: int, *, typing: bool = False) -> bool:
        """Return whether one more of a person may pass; if not, the operator reads of it."""
        if (self._typing if typing else self._asking).take(user_id):
            return True
        if self._logged.take(user_id):
            log.warning(
                "Member %s asks for more than anybody can by hand; what is too much is not done",
                user_id,
            )
        return False

    async def admits(self, interaction: discord.Interaction[Any]) -> bool:
        """Return whether an interaction may pass; if not, it is answered once in a while."""
        is_typing = interaction.type is discord.InteractionType.autocomplete
        if self.passes(interaction.user.id, typing=is_typing):
            return True
        if self._answers.take(interaction.user.id):
            with contextlib.suppress(*FAULTS):
                await understood(_refuse(interaction, is_typing=is_typing))
        return False


async def _refuse(interaction: discord.Interaction[Any], *, is_typing: bool) -> None:
    if is_typing:
        await interaction.response.autocomplete([])
    else:
        await interaction.response.send_message(_TOO_MANY, ephemeral=True)


class GatedTree(app_commands.CommandTree["ImagineBot"]):
    """Commands, menus and suggestions behind the gate."""

    async def interaction_check(self, interaction: discord.Interaction[ImagineBot], /) -> bool:
        """Return whether the interaction passes the gate."""
        return await self.client.gate.admits(interaction)


class Gated:
    """Puts the buttons, views and forms that inherit it, as the first of their bases, behind it."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Return whether the interaction passes the gate."""
        gate: Gate = interaction.client.gate
        return await gate.admits(interaction)
