"""Turns mentions in a prompt into names: `<@123>` becomes @Alice, as the person typed it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import discord

from generation.values.request import PROMPT_LENGTH

from ..delivery.codes import FAULTS, parsed
from .options import RequestOptions

log = logging.getLogger(__name__)

_MENTION: Final = re.compile(r"<(@[!&]?|#)(\d{15,21})>")
# Members that are not in discord.py's cache cost a request each.
_REQUESTS_MAX: Final = 5
_REQUEST_SECONDS: Final = 1.0


async def resolve_mentions(
    interaction: discord.Interaction[Any], options: RequestOptions
) -> RequestOptions:
    """Return `options` with names in place of the mentions in both prompts."""
    prompt, negative = await asyncio.gather(
        _resolved(interaction, options.prompt), _resolved(interaction, options.negative_prompt)
    )
    return dataclasses.replace(options, prompt=prompt, negative_prompt=negative)


async def _resolved(interaction: discord.Interaction[Any], text: str | None) -> str | None:
    """Return `text` with @name and #name in place of mentions; unknown ones stay as they are.

    If the names would make the prompt too long, each name is cut to the length of its mention.
    """
    mentions = set(_MENTION.findall(text or ""))
    if text is None or not mentions:
        return text
    names = await _names(interaction, mentions)
    whole = _MENTION.sub(lambda found: names.get((found[1], found[2]), found[0]), text)
    if len(whole) <= max(len(text), PROMPT_LENGTH):
        return whole
    return _MENTION.sub(
        lambda found: names.get((found[1], found[2]), found[0])[: len(found[0])], text
    )


async def _names(
    interaction: discord.Interaction[Any], mentions: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    guild, names = interaction.guild, dict[tuple[str, str], str]()
    unknown: list[tuple[str, str]] = []
    for sign, number in mentions:
        found = _cached(interaction.client, guild, sign, int(number))
        if found is not None:
            names[sign, number] = f"{sign[0]}{found}"
        elif sign in ("@", "@!") and guild is not None and len(unknown) < _REQUESTS_MAX:
            unknown.append((sign, number))
    if guild is not None and unknown:
        asked = await asyncio.gather(*(_request(guild, int(number)) for _, number in unknown))
        names |= {
            mention: f"@{name}"
            for mention, name in zip(unknown, asked, strict=True)
            if name is not None
        }
    return names


def _cached(
    client: discord.Client, guild: discord.Guild | None, sign: str, number: int
) -> str | None:
    if guild is None:
        user = client.get_user(number) if sign in ("@", "@!") else None
        return user.display_name if user is not None else None
    look: Callable[[int], Any] = {
        "@&": guild.get_role,
        "#": guild.get_channel_or_thread,
    }.get(sign, guild.get_member)
    found = look(number)
    return None if found is None else str(getattr(found, "display_name", found.name))


async def _request(guild: discord.Guild, number: int) -> str | None:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            return (await parsed(guild.fetch_member(number))).display_name
    except FAULTS as error:
        log.debug("The name of member %s is not known: %s", number, error)
        return None
