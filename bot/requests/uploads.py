"""From an attached file to a request for pictures similar to it: each member in their turn."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Final

import discord

from generation.images.files import Fit, Source, SourceReading, check_bytes
from generation.images.limits import SOURCE_BYTES_MAX
from generation.values.request import GenerationRequest

from ..errors import MissingInput
from ..memory import PictureMemory
from .builder import RequestBuilder
from .options import RequestOptions

# Each is a process that may take a gigabyte.
_READ_AT_ONCE: Final = 2

Download = Callable[[discord.Attachment], Awaitable[bytes | bytearray]]


class Uploads:
    """Downloads and reads what people attach.

    A file counts in `memory` from before its download until it is read. Files are read two at a
    time, of one member one at a time; who has none being read comes first.
    """

    def __init__(self, builder: RequestBuilder, memory: PictureMemory) -> None:
        self._builder = builder
        self._memory = memory
        self._turns = PictureMemory(_READ_AT_ONCE)

    async def request(
        self,
        owner: int,
        attachment: discord.Attachment,
        options: RequestOptions,
        download: Download,
        *,
        guild_id: int | None,
    ) -> GenerationRequest:
        """Return the request for pictures similar to an attachment.

        Without a prompt it is the one that the picture says it was made from.

        Raises:
            InvalidSource: the file cannot be fetched or read.
            InvalidRequest: an option is out of range.
            MissingInput: there is no prompt.
        """
        check_bytes(attachment.size)
        fit = self._builder.fit(options, guild_id=guild_id)
        source = await self._source(owner, attachment, download, fit)
        if options.prompt is None:
            if source.prompts is None:
                raise MissingInput("Say what the picture should become: add a prompt.")
            inside = source.prompts
            options = dataclasses.replace(
                options,
                prompt=inside.prompt,
                negative_prompt=options.negative_prompt or inside.negative_prompt or None,
            )
        return self._builder.similar_to(source.pixels, options, guild_id=guild_id)

    async def _source(
        self, owner: int, attachment: discord.Attachment, download: Download, fit: Fit
    ) -> Source:
        # The file, and the pixels that come of it.
        held = min(attachment.size, SOURCE_BYTES_MAX) + 3 * fit.most**2
        async with self._memory.hold(held, owner):
            # Kept by nothing else: what fails is answered after this, with its frames still there.
            reading = SourceReading(await download(attachment), fit)
            async with self._turns.hold(1, owner):
                return await _read(reading)


async def _read(reading: SourceReading) -> Source:
    try:
        return await asyncio.to_thread(reading.result)
    except asyncio.CancelledError:
        reading.kill()
        raise
