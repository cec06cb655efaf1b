"""Where a job's message stands, as discord.py's partial objects: they cost no request."""

from __future__ import annotations

import discord

from storage.records import Job

from .codes import parsed


def channel_of(client: discord.Client, job: Job) -> discord.PartialMessageable:
    """Return the channel or thread where a job was asked for."""
    return client.get_partial_messageable(job.channel_id, guild_id=job.guild_id)


def message_of(client: discord.Client, job: Job, message_id: int) -> discord.PartialMessage:
    """Return a message in the channel of a job."""
    return channel_of(client, job).get_partial_message(message_id)


async def open_thread(client: discord.Client, job: Job) -> None:
    """Open the archived thread of a job; do nothing if its channel is no thread."""
    thread = await parsed(client.fetch_channel(job.channel_id))
    if isinstance(thread, discord.Thread):
        await parsed(thread.edit(archived=False))
