"""The rate limit that every interaction and reaction passes before anything is looked up.

A person who uses the bot by hand never reaches the limit; a program does. Other limits hold for
jobs (`generation.queue.admission`) and for pictures in memory (`bot.memory`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import discord

from ..delivery.codes import FAULTS, parsed
from .buckets import Buckets, Policy

log = logging.getLogger(__name__)

# Commands, buttons, forms and reactions. A person who deletes pictures by hand makes three clicks a
# second for a while.
_ASKING: Final = Policy(burst=60, rate=2)
# Discord asks for suggestions every few letters.
_TYPING: Final = Policy(burst=40, rate=5)
# How often a person above the limit is answered.
_ANSWERS: Final = Policy(burst=3, rate=0.2)
_LOGGED: Final = Policy(burst=1, rate=1 / 600)
_TOO_MANY: Final = "You are asking faster than I can keep up with; please wait a minute."


class RateLimit:
    """Counts the interactions and reactions of each person, and refuses those above the limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._asking = Buckets(_ASKING, clock)
        self._typing = Buckets(_TYPING, clock)
        self._answers = Buckets(_ANSWERS, clock)
        self._logged = Buckets(_LOGGED, clock)

    def passes(self, user_id: int, *, typing: bool = False) -> bool:
        """Count one of a person; return whether it is below the limit, and log it if not."""
        if (self._typing if typing else self._asking).take(user_id):
            return True
        if self._logged.take(user_id):
            log.warning(
                "Member %s asks for more than anybody can by hand; the excess is refused",
                user_id,
            )
        return False

    async def admits(self, interaction: discord.Interaction[Any]) -> bool:
        """Return whether an interaction is below the limit; if not, answer some of them."""
        is_typing = interaction.type is discord.InteractionType.autocomplete
        if self.passes(interaction.user.id, typing=is_typing):
            return True
        if self._answers.take(interaction.user.id):
            with contextlib.suppress(*FAULTS):
                await parsed(_refuse(interaction, is_typing=is_typing))
        return False


async def _refuse(interaction: discord.Interaction[Any], *, is_typing: bool) -> None:
    if is_typing:
        await interaction.response.autocomplete([])
    else:
        await interaction.response.send_message(_TOO_MANY, ephemeral=True)
