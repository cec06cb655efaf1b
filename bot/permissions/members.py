"""Which jobs a member may see and remove, and how much of the engine a member gets."""

from __future__ import annotations

from collections.abc import Mapping

import discord

from storage.records import Job, Removal, Remover

from ..errors import NotAllowed, NotVisible, UnknownButton

Channel = discord.abc.GuildChannel | discord.Thread


class Members:
    """Decides which jobs a member may see and remove, by permissions in the job's channel."""

    def __init__(self, client: discord.Client) -> None:
        self._client = client

    def channel_of(self, job: Job) -> Channel | None:
        """Return the channel or thread of a job in a server; None if discord.py has none cached."""
        guild = self._client.get_guild(job.guild_id) if job.guild_id is not None else None
        return guild.get_channel_or_thread(job.channel_id) if guild is not None else None

    def permissions(
        self, job: Job, person: discord.User | discord.Member, channel_id: int
    ) -> discord.Permissions:
        """Return the permissions of `person`, who acts in `channel_id`, in the job's channel.

        A person has none where the channel is unknown. discord.py does not know the members of a
        private thread: a person who acts in the thread is one, and others need Manage Threads.
        """
        none = discord.Permissions.none()
        channel = self.channel_of(job)
        if channel is None or not isinstance(person, discord.Member):
            return none
        if person.guild.id != job.guild_id:
            return none
        if isinstance(channel, discord.Thread) and channel.parent is None:
            return none
        allowed = channel.permissions_for(person)
        is_elsewhere = channel_id != job.channel_id
        if is_elsewhere and isinstance(channel, discord.Thread) and channel.is_private():
            return allowed if allowed.manage_threads else none
        return allowed

    def may_see(self, job: Job, person: discord.User | discord.Member, channel_id: int) -> bool:
        """Return whether the job is the person's own, or in a channel that the person can read."""
        if job.user_id == person.id:
            return True
        allowed = self.permissions(job, person, channel_id)
        return allowed.view_channel and allowed.read_message_history

    def check_may_see(
        self,
        job: Job | None,
        person: discord.User | discord.Member,
        channel_id: int,
        what: str,
    ) -> Job:
        """Return `job` if it exists and `person` may see it.

        Raises:
            NotVisible: there is no such job, or it is not for `person`. Both errors read the same,
                so that nobody can probe ids.
        """
        if job is None or job.deleted or not self.may_see(job, person, channel_id):
            raise NotVisible(what)
        return job

    def may_remove(self, job: Job, person: discord.User | discord.Member, channel_id: int) -> bool:
        """Return whether `person` asked for the job or moderates its channel."""
        if job.user_id == person.id:
            return True
        return self.permissions(job, person, channel_id).manage_messages

    def check_may_remove(
        self, job: Job, person: discord.User | discord.Member, channel_id: int
    ) -> None:
        """Return only if `person` may cancel or delete the job.

        Raises:
            NotAllowed: somebody else asked for the job, and `person` is no moderator.
        """
        if not self.may_remove(job, person, channel_id):
            raise NotAllowed(
                "Only the person who asked for this picture or a moderator can remove it."
            )


def removal_by(job: Job, person: discord.User | discord.Member) -> Removal:
    """Return the record of a removal by `person`: as the job's owner or as a moderator."""
    is_owner = job.user_id == person.id
    return Removal(Remover.OWNER if is_owner else Remover.MODERATOR, person.id)


def weight(role_weights: Mapping[int, float], person: discord.User | discord.Member) -> float:
    """Return a person's share of the engine relative to others: the largest of their roles."""
    roles = person.roles if isinstance(person, discord.Member) else []
    weights = [role_weights[role.id] for role in roles if role.id in role_weights]
    return max(weights, default=1.0)


def check_clicked(job: Job | None, token: str | None, message: discord.Message | None) -> Job:
    """Return `job` if the button that was clicked below `message` belongs to it.

    `token` is None for a button of the first version. Such a button works below the job's own
    message only.

    Raises:
        UnknownButton: the button belongs to a job with the same number in another database.
    """
    if job is None or (token is not None and token != job.token):
        raise UnknownButton
    if message is not None and message.flags.ephemeral:
        # /history shows a person a copy of the job's message.
        is_ours = token is not None
    else:
        # A message may be clicked before the database knows that it was sent.
        is_unrecorded = job.message_id is None and token is not None
        is_ours = message is None or message.id == job.message_id or is_unrecorded
    if not is_ours:
        raise UnknownButton
    return job
