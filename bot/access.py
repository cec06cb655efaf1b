"""Who may see, use and remove what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import discord

from storage.records import Job

from .config import Settings
from .errors import NotAllowed, NotVisible, PermissionMissing

if TYPE_CHECKING:
    from .client import ImagineBot


def permissions(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member
) -> discord.Permissions:
    """Return what `person` may do where `job` was asked for; nothing where that is unknown."""
    guild = bot.get_guild(job.guild_id) if job.guild_id is not None else None
    if guild is None or not isinstance(person, discord.Member) or person.guild.id != guild.id:
        return discord.Permissions.none()
    channel = guild.get_channel_or_thread(job.channel_id)
    return discord.Permissions.none() if channel is None else channel.permissions_for(person)


def may_see(bot: ImagineBot, job: Job, person: discord.User | discord.Member) -> bool:
    """Return whether the job is the person's own, or in a channel that they can read here."""
    if job.user_id == person.id:
        return True
    allowed = permissions(bot, job, person)
    return allowed.view_channel and allowed.read_message_history


def weight(settings: Settings, person: discord.User | discord.Member) -> float:
    """Return how much of the engine a person gets beside others: the most of their roles."""
    roles = person.roles if isinstance(person, discord.Member) else []
    weights = [settings.role_weights[role.id] for role in roles if role.id in settings.role_weights]
    return max(weights, default=1.0)


def check_can_answer(interaction: discord.Interaction[Any]) -> None:
    """Return only if the bot can put pictures into the channel by its own token.

    Discord lets every application answer its interactions, but an answer outlives its token
    only as an ordinary message, for which the bot needs permissions like anybody else.

    Raises:
        PermissionMissing: it cannot.
    """
    if interaction.guild_id is None:
        return
    missing = [
        name
        for name, needed in (("View Channel", "view_channel"), ("Attach Files", "attach_files"))
        if not getattr(interaction.app_permissions, needed)
    ]
    if missing:
        raise PermissionMissing(missing)


def check_may_see(
    bot: ImagineBot, job: Job | None, person: discord.User | discord.Member, what: str
) -> Job:
    """Return `job` if it exists and `person` may see it.

    Raises:
        NotVisible: otherwise, with the same words, so that ids cannot be probed.
    """
    if job is None or job.deleted or not may_see(bot, job, person):
        raise NotVisible(what)
    return job


def may_remove(bot: ImagineBot, job: Job, person: discord.User | discord.Member) -> bool:
    """Return whether `person` asked for the job or moderates its channel."""
    return job.user_id == person.id or permissions(bot, job, person).manage_messages


def check_may_remove(bot: ImagineBot, job: Job, person: discord.User | discord.Member) -> None:
    """Return only if `person` may cancel or delete the job.

    Raises:
        NotAllowed: somebody else asked for it, and they are no moderator.
    """
    if not may_remove(bot, job, person):
        raise NotAllowed(
            "Only the person who asked for this picture or a moderator can take it away."
        )


def may_use(bot: ImagineBot, job: Job, person: discord.User | discord.Member) -> bool:
    """Return whether `person` may use the bot where `job` was posted.

    Reactions come without Discord's own check of slash command permissions, so this is it.
    """
    if job.guild_id is None:
        return job.user_id == person.id
    allowed = permissions(bot, job, person)
    return allowed.view_channel and allowed.use_application_commands
