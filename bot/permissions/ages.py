"""Which channels are age-restricted. Pictures that were made there are shown there only.

A thread is age-restricted if its parent is. discord.py drops archived threads from its cache, so
this asks Discord for the parent of such a thread. The parent never changes and is cached here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable
from typing import Final, TypeVar

import discord

from storage.records import HistoryEntry, Job

from ..delivery.codes import FAULTS, parsed
from ..delivery.retry import InvalidRequests
from ..errors import AgeRestricted

log = logging.getLogger(__name__)

T = TypeVar("T")
# Discord marks whole servers as well, apart from the channels that their owners mark.
_FOR_ADULTS: Final = frozenset({discord.NSFWLevel.explicit, discord.NSFWLevel.age_restricted})
# Part of the three seconds that Discord gives an interaction.
_SECONDS: Final = 1.0
# Requests at the same time: the length of a list of suggestions.
_AT_ONCE: Final = 25
# Discord is asked again for a refused thread after this time.
_AGAIN_SECONDS: Final = 600.0
_REMEMBERED: Final = 10_000

Made = Job | HistoryEntry


class Ages:
    """Knows which channels are age-restricted, from discord.py's cache and from Discord."""

    def __init__(self, client: discord.Client, invalid: InvalidRequests) -> None:
        self._client = client
        self._invalid = invalid
        self._parents: dict[int, int] = {}
        self._refused_at: dict[int, float] = {}

    def is_restricted(self, guild_id: int | None, channel_id: int) -> bool | None:
        """Return whether a channel is age-restricted now; None if that is unknown.

        Direct messages are never age-restricted.
        """
        if guild_id is None:
            return False
        guild = self._client.get_guild(guild_id)
        if guild is None:
            return None
        channel = guild.get_channel_or_thread(channel_id)
        if channel is None and channel_id in self._parents:
            channel = guild.get_channel(self._parents[channel_id])
        return restriction(channel)

    async def fetch_unknown(self, places: Iterable[tuple[int | None, int]]) -> None:
        """Ask Discord about the unknown channels among `places`, for at most a second."""
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
            found = await parsed(self._client.fetch_channel(channel_id))
        except FAULTS as error:
            log.info("Discord does not say if channel %s is age-restricted: %s", channel_id, error)
            if isinstance(error, discord.Forbidden | discord.NotFound):
                _remember(self._refused_at, channel_id, time.monotonic())
            return
        if isinstance(found, discord.Thread):
            _remember(self._parents, channel_id, found.parent_id)

    def check(self, made: Made, *, is_restricted_here: bool) -> None:
        """Return only if a job may be shown or used in this channel, as far as ages go.

        A job of an age-restricted channel may be shown in age-restricted channels only. The channel
        counts as restricted if it was when the job was made (the first versions did not record
        that), if it is now, or if it is unknown.

        Raises:
            AgeRestricted: this channel is not age-restricted, and the job's channel is.
        """
        if is_restricted_here:
            return
        is_restricted = made.age_restricted or self.is_restricted(made.guild_id, made.channel_id)
        if is_restricted is not False:
            raise AgeRestricted(is_known=is_restricted is not None)

    def may_show(self, made: Made, *, is_restricted_here: bool) -> bool:
        """Return whether `check` accepts the job."""
        try:
            self.check(made, is_restricted_here=is_restricted_here)
        except AgeRestricted:
            return False
        return True


def restriction(channel: object) -> bool | None:
    """Return whether a channel is age-restricted; None if the channel or its parent is unknown.

    Direct messages are never age-restricted. All channels of a server for adults are.
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
