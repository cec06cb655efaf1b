"""The settings under Server Settings, Integrations count for buttons and reactions too."""

from __future__ import annotations

from typing import Any, Final

import discord
import pytest
import simcord
from discord import AppCommandPermissionType as Kind

from ..stage import Stage, pictures

Setting = tuple[str, str, bool]

_KINDS: Final = {
    "bob": Kind.user,
    "mo": Kind.user,
    "everyone": Kind.role,
    "painters": Kind.role,
    "guests": Kind.role,
    "here": Kind.channel,
    "elsewhere": Kind.channel,
    "all channels": Kind.channel,
}


class Server:
    """Bob, a painter and a guest, among pictures of Alice's; and what the admins set."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        guild = stage.guild
        roles = [guild.create_role(name) for name in ("painters", "guests")]
        stage.bob = stage.join("bobby", *roles)
        elsewhere = guild.create_text_channel("elsewhere")
        self._ids = {
            "bob": stage.bob.id,
            "mo": stage.mo.id,
            "everyone": guild.id,
            "painters": roles[0].id,
            "guests": roles[1].id,
            "here": stage.channel.id,
            "elsewhere": elsewhere.id,
            "all channels": guild.id - 1,
        }

    def set(self, of: str, *settings: tuple[str, bool], told: bool = True) -> None:
        """Set who may use a command, or "any" of them, and tell the bot."""
        backend, guild_id = self.stage.env.backend, self.stage.guild.id
        command = None if of == "any" else backend.find_command(of, guild_id)
        of_id = backend.application_id if command is None else int(command["id"])
        entries: list[dict[str, Any]] = [
            {"id": str(self._ids[name]), "type": _KINDS[name].value, "permission": allowed}
            for name, allowed in settings
        ]
        backend.set_command_permissions(guild_id, of_id, entries)
        if told:
            backend.emit(
                "APPLICATION_COMMAND_PERMISSIONS_UPDATE",
                {
                    "id": str(of_id),
                    "application_id": str(backend.application_id),
                    "guild_id": str(guild_id),
                    "permissions": entries,
                },
            )

    async def may_use(self, command: str, **options: str) -> bool:
        """Return whether the simulated Discord lets Bob use a command, as the real one does."""
        try:
            await self.stage.bob.slash(self.stage.channel, command, **options)
        except simcord.SetupError as error:
            if "is not visible to this user here" not in str(error):
                raise
            return False
        return True

    async def may_press(self, message: discord.Message, button: str) -> bool:
        result = await self.stage.bob.click(message, custom_id=button)
        return not result.ephemeral

    def asked(self) -> int:
        """Return how often the bot asked Discord for these settings."""
        transcript = self.stage.env.backend.transcript
        return sum("/permissions" in str(name) for kind, name, _ in transcript if kind == "HTTP")


@pytest.fixture
def server(stage: Stage) -> Server:
    return Server(stage)


@pytest.mark.parametrize(
    ("entries", "allowed"),
    [
        ([], True),
        ([("imagine", "everyone", False)], False),
        ([("imagine", "everyone", False), ("imagine", "painters", True)], True),
        ([("imagine", "guests", False), ("imagine", "painters", True)], True),
        ([("imagine", "guests", False)], False),
        ([("imagine", "painters", True), ("imagine", "bob", False)], False),
        ([("imagine", "guests", False), ("imagine", "bob", True)], True),
        ([("imagine", "mo", False)], True),
        ([("imagine", "here", False), ("imagine", "bob", True)], False),
        ([("imagine", "all channels", False), ("imagine", "here", True)], True),
        ([("imagine", "all channels", False), ("imagine", "elsewhere", True)], False),
        ([("imagine", "elsewhere", False)], True),
        ([("any", "everyone", False)], False),
        ([("any", "everyone", False), ("imagine", "everyone", True)], True),
        ([("any", "bob", False), ("imagine", "painters", True)], True),
        ([("any", "bob", False), ("imagine", "mo", True)], False),
        ([("any", "here", False)], False),
        ([("any", "here", False), ("imagine", "here", True)], True),
        ([("any", "here", False), ("imagine", "all channels", True)], True),
        ([("any", "painters", True), ("imagine", "everyone", False)], False),
        ([("vary", "everyone", False)], True),
    ],
)
async def test_the_button_is_for_those_who_may_use_the_command(
    stage: Stage, server: Server, entries: list[Setting], allowed: bool
) -> None:
    message = await stage.imagine()
    for of in {of for of, _, _ in entries}:
        server.set(of, *((name, value) for level, name, value in entries if level == of))
    assert await server.may_use("imagine", prompt="cat face") is allowed
    assert await server.may_press(message, "rerun:1") is allowed


async def test_somebody_who_may_not_is_told_whom_to_ask(stage: Stage, server: Server) -> None:
    message = await stage.imagine()
    server.set("vary", ("bob", False))
    refused = await stage.bob.click(message, custom_id="vary:1:1")
    assert refused.response.content == (
        "You may not use /vary in this channel, so you cannot use this button; ask an admin to "
        "allow it under Server Settings, Integrations."
    )
    assert not await server.may_use("vary", image="1-1")
    assert await server.may_press(message, "rerun:1")
    assert not (await stage.alice.click(message, custom_id="vary:1:1")).ephemeral


@pytest.mark.parametrize(
    ("command", "emoji", "other"), [("imagine", "🔁", "🎲"), ("vary", "🎲", "🔁")]
)
async def test_the_reaction_is_for_those_who_may_use_the_command(
    stage: Stage, server: Server, command: str, emoji: str, other: str
) -> None:
    message = await stage.imagine()
    server.set(command, ("bob", False))
    await stage.bob.react(message, emoji)
    await stage.bob.react(message, other)
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)
    job = await stage.bot.service.jobs.get(2)
    assert job is not None
    assert job.origin.endswith(other)
    assert await stage.bot.service.jobs.get(3) is None


async def test_a_thread_has_the_settings_of_its_channel(stage: Stage, server: Server) -> None:
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    made = await channel.create_thread(name="owls", type=discord.ChannelType.public_thread)
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    await stage.alice.slash(thread, "imagine", prompt="owl")
    await stage.until(lambda: [m for m in thread.history() if pictures(m)])
    [message] = thread.history()
    server.set("imagine", ("here", False))
    assert not await server.may_press(message, "rerun:1")
    await stage.bob.react(message, "🔁")
    assert await stage.bot.service.jobs.get(2) is None
    server.set("imagine", ("elsewhere", False))
    assert await server.may_press(message, "rerun:1")


async def test_administrators_may(stage: Stage, server: Server) -> None:
    message = await stage.imagine()
    admins = stage.guild.create_role("Admins", permissions=discord.Permissions(administrator=True))
    stage.bob = stage.join("ann", admins)
    server.set("imagine", ("everyone", False), ("here", False))
    assert await server.may_use("imagine", prompt="cat face")
    assert await server.may_press(message, "rerun:1")


async def test_discord_is_asked_once_and_again_when_the_settings_changed(
    stage: Stage, server: Server
) -> None:
    message = await stage.imagine()
    assert server.asked() == 0
    assert await server.may_press(message, "rerun:1")
    before = server.asked()
    assert before > 0
    assert await server.may_press(message, "rerun:1")
    assert server.asked() == before
    server.set("imagine", ("everyone", False))
    assert not await server.may_press(message, "rerun:1")
    server.set("imagine", ("everyone", True))
    assert await server.may_press(message, "rerun:1")


async def test_settings_that_changed_while_offline_are_read_again(
    stage: Stage, server: Server
) -> None:
    message = await stage.imagine()
    assert await server.may_press(message, "rerun:1")
    server.set("imagine", ("everyone", False), told=False)
    stage.bot.dispatch("ready")
    await stage.until(lambda: stage.bot.integrations._known == {})
    assert not await server.may_press(message, "rerun:1")


async def test_buttons_work_if_discord_does_not_answer(stage: Stage, server: Server) -> None:
    message = await stage.imagine()
    server.set("imagine", ("everyone", False))
    stage.env.inject_error("GET", "/applications/*/permissions", status=403, code=50001)
    assert await server.may_press(message, "rerun:1")
    assert not await server.may_press(message, "rerun:1")


@pytest.mark.parametrize("answer", ["<html>", {"message": "no"}, {"permissions": [None]}])
async def test_buttons_work_if_the_answer_is_garbled(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async def garble(*_: Any) -> Any:
        return answer

    message = await stage.imagine()
    monkeypatch.setattr(stage.bot.http, "get_application_command_permissions", garble)
    assert await server.may_press(message, "rerun:1")
