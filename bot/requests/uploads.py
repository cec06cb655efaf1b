"""From attachments to pictures for requests, in fair turns among members."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import discord

from generation.images.files import Fit, ReferenceFit, Source, SourceReading, check_bytes
from generation.images.limits import SOURCE_BYTES_MAX
from generation.values.pixels import Pixels
from generation.values.request import REFERENCE_AREA_MAX, GenerationRequest

from ..errors import MissingInput
from ..memory import PictureMemory
from .builder import RequestBuilder
from .options import RequestOptions

# Each file is read in a process, which may take a gigabyte.
_READ_AT_ONCE: Final = 2

Download = Callable[[discord.Attachment], Awaitable[bytes | bytearray]]


class Uploads:
    """Downloads and reads attachments.

    A file counts in `memory` from before its download until it is read; the references of an edit
    count as long as `held_references` says. Two files are read at the same time, and one of each
    member; members without a file being read come first.
    """

    def __init__(self, memory: PictureMemory) -> None:
        self._memory = memory
        self._turns = PictureMemory(_READ_AT_ONCE)

    async def request(
        self,
        owner: int,
        attachment: discord.Attachment,
        options: RequestOptions,
        download: Download,
        *,
        builder: RequestBuilder,
        guild_id: int | None,
    ) -> GenerationRequest:
        """Return the request by `builder` for pictures similar to an attachment.

        The default prompt is the one that is stored in the file, if there is one. LoRAs in it that
        cannot be used here are left out.

        Raises:
            InvalidSource: the file cannot be fetched or read.
            InvalidRequest: an option is out of range.
            MissingInput: neither the options nor the file has a prompt.
        """
        check_bytes(attachment.size)
        fit = builder.fit(options, guild_id=guild_id)
        source = await self._source(owner, attachment, download, fit)
        if options.prompt is None:
            if source.prompts is None:
                raise MissingInput("Say what the picture should become: add a prompt.")
            stored = source.prompts
            # The LoRAs in it are those of another machine.
            prompt = await asyncio.to_thread(builder.loras.of_stored, stored.prompt)
            options = dataclasses.replace(
                options,
                prompt=prompt,
                negative_prompt=options.negative_prompt or stored.negative_prompt or None,
            )
        return await asyncio.to_thread(
            builder.similar_to, source.pixels, options, guild_id=guild_id
        )

    @asynccontextmanager
    async def held_references(
        self, owner: int, attachments: Sequence[discord.Attachment], count: int
    ) -> AsyncIterator[None]:
        """Count the memory of `count` references inside the context; some are attachments.

        Without attachments nothing counts here: a picture of the bot counts where it is read.

        Raises:
            InvalidSource: a file is too large.
        """
        for attachment in attachments:
            check_bytes(attachment.size)
        if not attachments:
            yield
            return
        # The files are read one after the other, and all references stay.
        held = max(map(_file_bytes, attachments)) + count * 3 * REFERENCE_AREA_MAX
        async with self._memory.hold(held, owner):
            yield

    async def references(
        self,
        owner: int,
        attachments: Sequence[discord.Attachment],
        download: Download,
        *,
        builder: RequestBuilder,
    ) -> list[Pixels]:
        """Return attachments as references for the model of `builder`, inside `held_references`.

        Raises:
            InvalidSource: a file cannot be fetched or read, or its shape does not do.
        """
        fit = builder.reference_fit
        return [
            (await self._read(owner, attachment, download, fit)).pixels
            for attachment in attachments
        ]

    async def _source(
        self, owner: int, attachment: discord.Attachment, download: Download, fit: Fit
    ) -> Source:
        # The file, and its decoded pixels.
        async with self._memory.hold(_file_bytes(attachment) + 3 * fit.most**2, owner):
            return await self._read(owner, attachment, download, fit)

    async def _read(
        self,
        owner: int,
        attachment: discord.Attachment,
        download: Download,
        fit: Fit | ReferenceFit,
    ) -> Source:
        # The file is in no local variable: an error keeps the frames until it is answered.
        reading = SourceReading(await download(attachment), fit)
        async with self._turns.hold(1, owner):
            return await _read(reading)


def _file_bytes(attachment: discord.Attachment) -> int:
    return min(attachment.size, SOURCE_BYTES_MAX)


async def _read(reading: SourceReading) -> Source:
    try:
        return await asyncio.to_thread(reading.result)
    except asyncio.CancelledError:
        reading.kill()
        raise
