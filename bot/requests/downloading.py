"""Downloads attachments from Discord's own servers, with limits in bytes and seconds."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import aiohttp
import discord
from discord.http import HTTPClient
from yarl import URL

from generation.errors import InvalidSource
from generation.images.limits import SOURCE_BYTES_MAX

log = logging.getLogger(__name__)

# Discord keeps attachments here. An attachment with another address does not come from Discord.
ORIGINS: frozenset[str] = frozenset({"https://cdn.discordapp.com", "https://media.discordapp.net"})
_SECONDS: Final = 30.0
_CHUNK: Final = 2**16
_OK: Final = 200
# Without compression, few downloaded bytes cannot become many bytes in memory.
_PLAIN: Final = {"Accept-Encoding": "identity"}
_NOT_FETCHED: Final = "That file could not be fetched from Discord; please attach it again."


async def download_source(attachment: discord.Attachment) -> bytes | bytearray:
    """Return the bytes of an attached picture, as `download` does."""
    return await download(attachment, most=SOURCE_BYTES_MAX)


async def download(
    attachment: discord.Attachment,
    *,
    most: int,
    origins: frozenset[str] | None = None,
    seconds: float = _SECONDS,
) -> bytes | bytearray:
    """Return the bytes of an attachment: at most `most`, and at most its stated size.

    The file comes from one of `origins`, without redirects. Discord's own are the default.

    Raises:
        InvalidSource: the address is not one of `origins`, or the download failed or took too long.
    """
    try:
        async with asyncio.timeout(seconds):
            if not _comes_by_network(attachment):
                return await attachment.read()
            return await _fetch(URL(attachment.url), min(most, attachment.size), origins or ORIGINS)
    except (discord.DiscordException, aiohttp.ClientError, OSError, ValueError) as error:
        log.warning("An attachment could not be fetched: %s", str(error) or type(error).__name__)
        raise InvalidSource(_NOT_FETCHED) from error


def _comes_by_network(attachment: discord.Attachment) -> bool:
    """Return whether the file has to be downloaded: a simulated Discord holds the bytes itself."""
    http: Any = getattr(attachment, "_http", None)
    return getattr(type(http), "get_from_cdn", None) is HTTPClient.get_from_cdn


async def _fetch(url: URL, most: int, origins: frozenset[str]) -> bytearray:
    if str(url.origin()) not in origins:
        raise ValueError(f"{url.host} is not a server of Discord")
    async with (
        # Not discord.py's session, which follows redirects and decompresses.
        aiohttp.ClientSession(auto_decompress=False, headers=_PLAIN) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        if answer.status != _OK:
            raise ValueError(f"the server answered {answer.status}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError("the server sent it compressed")
        return await _collected(answer.content, most)


async def _collected(content: aiohttp.StreamReader, most: int) -> bytearray:
    data = bytearray()
    try:
        async for chunk in content.iter_chunked(_CHUNK):
            data += chunk
            if len(data) > most:
                raise ValueError(f"the file has more than the stated {most} bytes")
    except BaseException:
        # The error keeps this frame alive until the person is answered.
        data.clear()
        raise
    return data
