"""Files that people attach, from Discord's own servers: bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import aiohttp
import discord
from discord.http import HTTPClient
from yarl import URL

from generation.errors import InvalidSource

log = logging.getLogger(__name__)

# Where Discord keeps attachments. Any other address in a message was not written by Discord.
ORIGINS: frozenset[str] = frozenset({"https://cdn.discordapp.com", "https://media.discordapp.net"})
_SECONDS: Final = 30.0
_CHUNK: Final = 2**16
_OK: Final = 200
# What nobody compressed comes as it is, so that few bytes cannot become many.
_PLAIN: Final = {"Accept-Encoding": "identity"}
_NOT_FETCHED: Final = "That file could not be fetched from Discord; please attach it again."


async def download(
    attachment: discord.Attachment,
    *,
    most: int,
    origins: frozenset[str] | None = None,
    seconds: float = _SECONDS,
) -> bytes | bytearray:
    """Return the bytes of an attachment, of which there are `most` and no more than it said.

    It comes from one of `origins` (Discord's own where none are given), by no detour.

    Raises:
        InvalidSource: it does not come from there, in that time, or whole.
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
    """Return whether there is a network in between: a simulated Discord has the bytes itself."""
    http: Any = getattr(attachment, "_http", None)
    return getattr(type(http), "get_from_cdn", None) is HTTPClient.get_from_cdn


async def _fetch(url: URL, most: int, origins: frozenset[str]) -> bytearray:
    if str(url.origin()) not in origins:
        raise ValueError(f"{url.host} is no server of Discord")
    async with (
        # Not discord.py's own: it follows redirects, and unpacks what is compressed.
        aiohttp.ClientSession(auto_decompress=False, headers=_PLAIN) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        if answer.status != _OK:
            raise ValueError(f"its server answered {answer.status}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError("its server compressed it")
        return await _collected(answer.content, most)


async def _collected(content: aiohttp.StreamReader, most: int) -> bytearray:
    data = bytearray()
    try:
        async for chunk in content.iter_chunked(_CHUNK):
            data += chunk
            if len(data) > most:
                raise ValueError(f"it has more than the {most} bytes that were said")
    except BaseException:
        # The error holds this frame until the person has their answer.
        data.clear()
        raise
    return data
