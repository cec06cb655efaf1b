"""Who may see, use and remove what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import discord

from storage.records import Job, Removal, Remover

from ..config import Settings
from ..errors import NotAllowed, NotVisible, PermissionMissing, UnknownButton

if TYPE_CHECKING:
    from ..client import ImagineBot


def permissions(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member, channel_id: int
) -> discord.Permissions:
    """Return what `person`, who acts in `channel_id`, may do where `job` was asked for.

    That is nothing where it is unknown. Who belongs to a private thread is not known here: those
    who act in that thread do, and those who manage threads may.
    """
    guild = bot.get_guild(job.guild_id) if job.guild_id is not None else None
    if guild is None or not isinstance(person, discord.Member) or person.guild.id != guild.id:
        return discord.Permissions.none()
    channel = guild.get_channel_or_thread(job.channel_id)
    if channel is None or (isinstance(channel, discord.Thread) and channel.parent is None):
        return discord.Permissions.none()
    allowed = channel.permissions_for(person)
    is_elsewhere = channel_id != job.channel_id
    if is_elsewhere and isinstance(channel, discord.Thread) and channel.is_private():
        return allowed if allowed.manage_threads else discord.Permissions.none()
    return allowed


def may_see(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member, channel_id: int
) -> bool:
    """Return whether the job is the person's own, or in a channel that they can read here."""
    if job.user_id == person.id:
        return True
    allowed = permissions(bot, job, person, channel_id)
    return allowed.view_channel and allowed.read_message_history


def weight(settings: Settings, person: discord.User | discord.Member) -> float:
    """Return how much of the engine a person gets beside others: the most of their roles."""
    roles = person.roles if isinstance(person, discord.Member) else []
    weights = [settings.role_weights[role.id] for role in roles if role.id in settings.role_weights]
    return max(weights, default=1.0)


def check_can_reply(guild: discord.Guild | None, channel_id: int) -> None:
    """Return only if the bot can answer a reaction with pictures in this channel.

    Raises:
        PermissionMissing: it cannot.
    """
    channel = guild.get_channel_or_thread(channel_id) if guild is not None else None
    if guild is None or channel is None:
        return
    allowed = channel.permissions_for(guild.me)
    is_thread = isinstance(channel, discord.Thread)
    can_send = allowed.send_messages_in_threads if is_thread else allowed.send_messages
    missing = [
        name
        for name, is_given in (("Send Messages", can_send), ("Attach Files", allowed.attach_files))
        if not is_given
    ]
    if missing:
        raise PermissionMissing(missing)


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


async def check_may_use(interaction: discord.Interaction[ImagineBot], command: str) -> None:
    """Return only if the person who pressed a button may use the command that does the same.

    Discord looks at that for commands alone.

    Raises:
        NotAllowed: they may not.
    """
    if interaction.guild_id is None:
        return
    if not interaction.permissions.use_application_commands:
        raise NotAllowed(
            "You may not use commands in this channel, and so not make pictures here; ask a "
            "moderator for the permission Use Application Commands."
        )
    channel = interaction.channel or discord.Object(interaction.channel_id or 0)
    if not await interaction.client.integrations.allow(command, interaction.user, channel):
        raise NotAllowed(
            f"You may not use /{command} in this channel, and so not this button; ask an admin, "
            "who can allow it under Server Settings, Integrations."
        )


def check_clicked(job: Job | None, token: str | None, message: discord.Message | None) -> None:
    """Return only if the button that was clicked below `message` is of `job`.

    `token` is None for a button of a version before tokens: its job is known by the message then.

    Raises:
        UnknownButton: it is of another job of the same number, which another database had.
    """
    if job is None or (token is not None and token != job.token):
        raise UnknownButton
    if message is not None and message.flags.ephemeral:
        # /history shows a person a copy of the job's message.
        is_ours = token is not None
    else:
        # A message may be clicked before it is known here that it was sent.
        is_unrecorded = job.message_id is None and token is not None
        is_ours = message is None or message.id == job.message_id or is_unrecorded
    if not is_ours:
        raise UnknownButton


def check_may_see(
    bot: ImagineBot,
    job: Job | None,
    person: discord.User | discord.Member,
    channel_id: int,
    what: str,
) -> Job:
    """Return `job` if it exists and `person` may see it.

    Raises:
        NotVisible: otherwise, with the same words, so that ids cannot be probed.
    """
    if job is None or job.deleted or not may_see(bot, job, person, channel_id):
        raise NotVisible(what)
    return job


def may_remove(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member, channel_id: int
) -> bool:
    """Return whether `person` asked for the job or moderates its channel."""
    return job.user_id == person.id or permissions(bot, job, person, channel_id).manage_messages


def removal_by(job: Job, person: discord.User | discord.Member) -> Removal:
    """Return as whom `person`, who may, takes a job away."""
    is_owner = job.user_id == person.id
    return Removal(Remover.OWNER if is_owner else Remover.MODERATOR, person.id)


def check_may_remove(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member, channel_id: int
) -> None:
    """Return only if `person` may cancel or delete the job.

    Raises:
        NotAllowed: somebody else asked for it, and they are no moderator.
    """
    if not may_remove(bot, job, person, channel_id):
        raise NotAllowed(
            "Only the person who asked for this picture or a moderator can take it away."
        )


async def may_use(
    bot: ImagineBot, job: Job, person: discord.User | discord.Member, command: str
) -> bool:
    """Return whether `person` may use `command` where `job` was posted.

    Reactions come without Discord's own check of slash command permissions, so this is it.
    """
    if job.guild_id is None:
        return job.user_id == person.id
    allowed = permissions(bot, job, person, job.channel_id)
    if not (allowed.view_channel and allowed.use_application_commands):
        return False
    guild = bot.get_guild(job.guild_id)
    channel = guild.get_channel_or_thread(job.channel_id) if guild is not None else None
    return channel is not None and await bot.integrations.allow(command, person, channel)
