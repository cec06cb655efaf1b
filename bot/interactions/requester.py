"""The person who asks for something, and the channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import discord

from generation.values.request import GenerationRequest
from storage.records import JobKind, NewJob

from ..permissions.ages import restriction

Person = discord.User | discord.Member


@dataclass(frozen=True, slots=True)
class Requester:
    """The person who asks, the channel, and the interaction or reaction (`origin`).

    `age_restricted` says whether the channel is known to be age-restricted.
    """

    person: Person
    guild_id: int | None
    channel_id: int
    origin: str
    age_restricted: bool = False

    def new_job(
        self, kind: JobKind, request: GenerationRequest, *, parent_image_id: int | None = None
    ) -> NewJob:
        """Return a new job of this person in this channel."""
        return NewJob(
            kind=kind,
            user_id=self.person.id,
            guild_id=self.guild_id,
            channel_id=self.channel_id,
            request=request,
            parent_image_id=parent_image_id,
            origin=self.origin,
            age_restricted=self.age_restricted,
        )


def requester_of(interaction: discord.Interaction[Any]) -> Requester:
    """Return the person and the channel of an interaction."""
    return Requester(
        person=interaction.user,
        guild_id=interaction.guild_id,
        channel_id=interaction.channel_id or interaction.user.id,
        origin=f"interaction:{interaction.id}",
        age_restricted=restriction(interaction.channel) is True,
    )
