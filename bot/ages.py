"""Which channels only adults may open, and what was made there stays there.

A thread is what its parent is. discord.py forgets a thread that is archived, so its parent is asked
of Discord then, and remembered: it never changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeVar

import discord

from storage.records import HistoryEntry, Job

from .delivery_codes import FAULTS, understood
from .errors import AgeRestricted
from .retry import InvalidRequests

if TYPE_CHECKING:
    from .client import ImagineBot

log = logging.getLogger(__name__)

T = TypeVar("T")
# Discord marks whole servers as well, apart from the channels that their owners mark.
_FOR_ADULTS: Final = frozenset({discord.NSFWLevel.explicit, discord.NSFWLevel.age_restricted})
# Of the three that Discord gives an interaction.
_SECONDS: Final = 1.0
# Asked at once, as many as a list of suggestions has.
_AT_ONCE: Final = 25
# A thread that Discord does not show is asked for again after that.
_AGAIN_SECONDS: Final = 600.0
_REMEMBERED: Final = 10_000

Made = Job | HistoryEntry


class Ages:
    """Says which channels are age-restricted, as far as that is known."""

    def __init__(self, bot: ImagineBot, invalid: InvalidRequests) -> None:
        self._bot = bot
        self._invalid = invalid
        self._parents: dict[int, int] = {}
        self._refused_at: dict[int, float] = {}

    def is_restricted(self, guild_id: int | None, channel_id: int) -> bool | None:
        """Return whether only adults may open a channel now; None if that is not known.

        Direct messages are open to all.
        """
        if guild_id is None:
            return False
        guild = self._bot.get_guild(guild_id)
        if guild is None:
            return None
        channel = guild.get_channel_or_thread(channel_id)
        if channel is None and channel_id in self._parents:
            channel = guild.get_channel(self._parents[channel_id])
        return restriction(channel)

    async def learn(self, places: Iterable[tuple[int | None, int]]) -> None:
        """Ask Discord about the servers' channels of which nothing is known, for a second."""
        unknown = {
            channel_id: None
            for guild_id, channel_id in places
            if self.is_restricted(guild_id, channel_id) is None and self._may_ask(channel_id)
        }
        if unknown:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    asked = itertools.islice(unknown, _AT_ONCE)
                    await asyncio.gather(*map(self._ask, asked))

    def _may_ask(self, channel_id: int) -> bool:
        refused_at = self._refused_at.get(channel_id, -_AGAIN_SECONDS)
        is_over = time.monotonic() - refused_at >= _AGAIN_SECONDS
        return is_over and not self._invalid.is_spent

    async def _ask(self, channel_id: int) -> None:
        try:
            found = await understood(self._bot.fetch_channel(channel_id))
        except FAULTS as error:
            log.info("Whether channel %s is age-restricted is not known: %s", channel_id, error)
            if isinstance(error, discord.Forbidden | discord.NotFound):
                _remember(self._refused_at, channel_id, time.monotonic())
            return
        if isinstance(found, discord.Thread):
            _remember(self._parents, channel_id, found.parent_id)

    def check(self, made: Made, *, is_restricted_here: bool) -> None:
        """Return only if what was made may be shown or used here, as far as ages go.

        What was made in an age-restricted channel may be in such a channel only. Channels change,
        and jobs of the first versions have no mark: what the channel is now counts as well, and
        one of which nothing is known is no open one.

        Raises:
            AgeRestricted: this channel is an open one.
        """
        if is_restricted_here:
            return
        is_restricted = made.age_restricted or self.is_restricted(made.guild_id, made.channel_id)
        if is_restricted is not False:
            raise AgeRestricted(is_known=is_restricted is not None)

    def may_show(self, made: Made, *, is_restricted_here: bool) -> bool:
        """Return whether `check` lets it pass."""
        try:
            self.check(made, is_restricted_here=is_restricted_here)
        except AgeRestricted:
            return False
        return True


def restriction(channel: object) -> bool | None:
    """Return whether only adults may open a channel; None if it, or a thread's parent, is unknown.

    Direct messages are open to all. A server that is for adults only has no open channel.
    """
    guild = getattr(channel, "guild", None)
    if guild is not None and guild.nsfw_level in _FOR_ADULTS:
        return True
    if channel is None or (isinstance(channel, discord.Thread) and channel.parent is None):
        return None
    ask = getattr(channel, "is_nsfw", None)
    return ask is not None and bool(ask())


def _remember(known: dict[int, T], channel_id: int, value: T) -> None:
    known[channel_id] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]
