"""Who may use which model."""

from __future__ import annotations

import discord

from ..errors import NotAllowed
from ..listing import ListedModel

# There is no content filter yet. Its setting will decide this.
_FILTER_IS_ON = False


def may_use(
    listed: ListedModel, person: discord.User | discord.Member, guild_id: int | None
) -> bool:
    """Return whether `person` may use a model in a server; None stands for direct messages.

    A model with roles and servers is for the people with one of the roles, and for everybody in one
    of the servers.
    """
    if needs_missing_filter(listed):
        return False
    if listed.is_for_everybody or guild_id in listed.servers:
        return True
    roles = person.roles if isinstance(person, discord.Member) else []
    return any(role.id in listed.roles for role in roles)


def needs_missing_filter(listed: ListedModel) -> bool:
    """Return whether the licence of a model demands a content filter while there is none."""
    return listed.needs_filter and not _FILTER_IS_ON


def check_may_use(
    listed: ListedModel, person: discord.User | discord.Member, guild_id: int | None
) -> None:
    """Return only if `person` may use the model here.

    Raises:
        NotAllowed: the sentence says why not.
    """
    if needs_missing_filter(listed):
        raise NotAllowed(
            f"The licence of the model {listed.name} demands a content filter, which is off here; "
            "choose another model with /models."
        )
    if not may_use(listed, person, guild_id):
        raise NotAllowed(
            f"You may not use the model {listed.name} here; /models lists those that you may use."
        )
