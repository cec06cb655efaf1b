"""Mentions in a prompt by the names that people see: `<@123>` was typed as @Alice."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import discord

from generation.request import PROMPT_LENGTH

from .delivery_codes import FAULTS, understood
from .requests import Wishes

log = logging.getLogger(__name__)

_MENTION: Final = re.compile(r"<(@[!&]?|#)(\d{15,21})>")
# Of people whom discord.py does not know it asks Discord, a request each.
_ASKED: Final = 5
_ASK_SECONDS: Final = 1.0


async def named(interaction: discord.Interaction[Any], wishes: Wishes) -> Wishes:
    """Return `wishes` with the mentions in their prompts by name."""
    prompt, negative = await asyncio.gather(
        by_name(interaction, wishes.prompt), by_name(interaction, wishes.negative_prompt)
    )
    return dataclasses.replace(wishes, prompt=prompt, negative_prompt=negative)


async def by_name(interaction: discord.Interaction[Any], text: str | None) -> str | None:
    """Return `text` with @name and #name for the mentions in it, as they were typed.

    A mention of what cannot be found stays as it is. Where the names would make a prompt too long
    that Discord took, each has as many characters as its mention.
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
        found = _known(interaction.client, guild, sign, int(number))
        if found is not None:
            names[sign, number] = f"{sign[0]}{found}"
        elif sign in ("@", "@!") and guild is not None and len(unknown) < _ASKED:
            unknown.append((sign, number))
    if guild is not None and unknown:
        asked = await asyncio.gather(*(_ask(guild, int(number)) for _, number in unknown))
        names |= {
            mention: f"@{name}"
            for mention, name in zip(unknown, asked, strict=True)
            if name is not None
        }
    return names


def _known(
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


async def _ask(guild: discord.Guild, number: int) -> str | None:
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            return (await understood(guild.fetch_member(number))).display_name
    except FAULTS as error:
        log.debug("The name of member %s is not known: %s", number, error)
        return None
