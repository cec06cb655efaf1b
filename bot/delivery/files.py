"""The files of a job's pictures, as Discord takes them in a message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import discord

from storage.records import Job

from ..jobs.courier_protocol import Picture
from ..ui import attachments

UPLOAD_LIMIT: Final = 10 * 2**20
"""The most bytes of a message where the server has no larger limit."""
UPLOAD_MARGIN: Final = 64 * 2**10
"""The bytes of a request beside its files."""


def upload_limit(client: discord.Client, job: Job) -> int:
    """Return the most bytes that a message may have in the job's channel."""
    guild = client.get_guild(job.guild_id) if job.guild_id is not None else None
    return guild.filesize_limit if guild is not None else UPLOAD_LIMIT


def attachments_of(
    job: Job, pictures: Sequence[Picture], *, limit: int = UPLOAD_LIMIT
) -> list[attachments.Attachment]:
    """Return the files that show stored pictures in a message of at most `limit` bytes.

    Large pictures are enlarged or compressed, which takes a good part of a second.
    """
    shown = [(picture.image.recipe, picture.png) for picture in pictures]
    return attachments.attachments(job, shown, limit=limit - UPLOAD_MARGIN)


async def fitting_files(
    job: Job, pictures: Sequence[Picture], limit: int
) -> list[attachments.Attachment]:
    """Return the files that `attachments_of` returns; do the work in a thread."""
    return await asyncio.to_thread(attachments_of, job, pictures, limit=limit)


async def files_of(
    client: discord.Client, job: Job, pictures: Sequence[Picture]
) -> list[attachments.Attachment]:
    """Return the files that show these pictures in the job's channel."""
    return await fitting_files(job, pictures, upload_limit(client, job))


@contextlib.contextmanager
def discord_files(files: Iterable[attachments.Attachment]) -> Iterator[list[discord.File]]:
    """Make discord.py's files for one request, and free their bytes after the request.

    discord.py leaves each file in a reference cycle, which can stay in memory for long.
    """
    sent = [file.file() for file in files]
    try:
        yield sent
    finally:
        for file in sent:
            file.fp.close()
