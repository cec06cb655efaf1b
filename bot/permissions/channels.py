"""In which channels the bot can post pictures."""

from __future__ import annotations

from typing import Any

import discord

from ..errors import PermissionMissing


def check_can_reply(guild: discord.Guild | None, channel_id: int) -> None:
    """Return only if the bot can answer a reaction with pictures in this channel.

    Raises:
        PermissionMissing: the bot cannot.
    """
    channel = guild.get_channel_or_thread(channel_id) if guild is not None else None
    if guild is None or channel is None:
        return
    allowed = channel.permissions_for(guild.me)
    is_thread = isinstance(channel, discord.Thread)
    can_send = allowed.send_messages_in_threads if is_thread else allowed.send_messages
    _check_given({"Send Messages": can_send, "Attach Files": allowed.attach_files})


def check_can_answer(interaction: discord.Interaction[Any]) -> None:
    """Return only if the bot can post pictures in the channel with its own token.

    Discord lets every application answer an interaction for 15 minutes. Later edits need an
    ordinary message, and for that the bot needs the same permissions as a member.

    Raises:
        PermissionMissing: the bot cannot.
    """
    if interaction.guild_id is None:
        return
    allowed = interaction.app_permissions
    _check_given({"View Channel": allowed.view_channel, "Attach Files": allowed.attach_files})


def _check_given(permissions: dict[str, bool]) -> None:
    if missing := [name for name, is_given in permissions.items() if not is_given]:
        raise PermissionMissing(missing)
