"""A simulated Discord with the real bot in it: a server, a channel, and people."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import discord
import simcord
from PIL import Image
from simcord.actors import MemberActor

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from bot.ui import attachments
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError
from generation.timing import Measured
from generation.values.events import Waiting
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

T = TypeVar("T")
_TOKEN: Final = re.compile(r"^(rerun|vary|remove|delete):[0-9a-f]+\.")


class Person(MemberActor):
    """A member who presses buttons by what they do, `rerun:1`, or by their very custom id."""

    async def click(
        self, message: Any, *, label: str | None = None, custom_id: str | None = None
    ) -> simcord.InteractionResult:
        if custom_id is not None:
            seen = getattr(message, "message", message)
            by_action = dict(zip(button_actions(seen), buttons(seen), strict=True))
            custom_id = by_action.get(custom_id, custom_id)
        return await super().click(message, label=label, custom_id=custom_id)


class Stage:
    """One server with a channel, and Alice, Bob and the moderator Mo in it."""

    def __init__(self, env: simcord.Env, settings: Settings, make_engine: MakeEngine) -> None:
        self.env = env
        self.settings = settings
        self.make_engine = make_engine
        self.guild = env.create_guild("Emoji Friends")
        self.channel = self.guild.create_text_channel("pictures")
        self.alice = self.join("alice")
        self.bob = self.join("bob")
        moderators = self.guild.create_role(
            "Moderators", permissions=discord.Permissions(manage_messages=True)
        )
        self.mo = self.join("mo", moderators)

    def join(self, name: str, *roles: simcord.RoleHandle) -> Person:
        """Let somebody join the server."""
        member = self.guild.add_member(self.env.create_user(name), roles=roles)
        return Person(self.env, self.guild, member.user)

    @property
    def bot(self) -> ImagineBot:
        assert isinstance(self.env.bot, ImagineBot)
        return self.env.bot

    def messages(self) -> list[discord.Message]:
        """Return what stands in the channel, oldest first."""
        return sorted(self.channel.history(), key=lambda message: message.id)

    def restrict(self, channel: simcord.ChannelHandle, *, is_restricted: bool = True) -> None:
        """Make a channel age-restricted, of which SimCord knows nothing, or open again."""
        known = self.bot.get_channel(channel.id)
        assert isinstance(known, discord.TextChannel)
        known.nsfw = is_restricted

    def look(self, message_id: int) -> discord.Message:
        return next(message for message in self.messages() if message.id == message_id)

    async def until(self, condition: Callable[[], T], *, seconds: float = 30.0) -> T:
        """Return the first true value of `condition`, which work in the background brings about."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < deadline, self.env.transcript()
            await asyncio.sleep(0.01)

    async def eventually(self, ask: Callable[[], Awaitable[T]], *, seconds: float = 30.0) -> T:
        """Return the first true answer of `ask`, such as a question to the database."""
        deadline = time.monotonic() + seconds
        while True:
            value = await ask()
            if value:
                return value
            assert time.monotonic() < deadline, self.env.transcript()
            await asyncio.sleep(0.01)

    async def waits_at(self, message_id: int, place: int) -> None:
        """Wait until the job of a message is told a place, which the message says coarsely."""

        async def is_there() -> bool:
            job = await self.bot.service.jobs.by_message(message_id)
            event = None if job is None else self.bot.service.latest(job)
            return isinstance(event, Waiting) and event.position == place

        await self.eventually(is_there)

    async def finished(self, message_id: int) -> discord.Message:
        """Return a message once it has its pictures."""
        # A hundred steps take long on a busy machine.
        await self.until(lambda: pictures(self.look(message_id)), seconds=120)
        return self.look(message_id)

    async def imagine(self, prompt: str = "rabbit face", **options: Any) -> discord.Message:
        """Have Alice ask for pictures, and return the message when they are there."""
        result = await self.alice.slash(self.channel, "imagine", prompt=prompt, **options)
        assert result.response is not None, self.env.transcript()
        return await self.finished(result.response.id)

    async def remove(self, person: Person, message: discord.Message, job_id: int = 1) -> None:
        """Have somebody press ❌ below finished pictures, and Delete when they are asked."""
        asked = await person.click(message, custom_id=f"remove:{job_id}")
        (question,) = asked.followups
        assert question.content.startswith("Delete ")
        await person.click(question, custom_id=f"delete:{job_id}")

    async def restart(self) -> None:
        """Stop the bot and start another on the same data, as an operator does."""
        await self.bot.close()
        await self.env.restart_bot(create_bot(self.settings, make_engine=self.make_engine))


def pictures(message: discord.Message) -> list[discord.Attachment]:
    """Return the pictures below a message; a preview is none."""
    files = message.attachments
    return files if attachments.is_finished(file.filename for file in files) else []


def buttons(message: discord.Message) -> list[str]:
    """Return the custom ids below a message, in order."""
    return [
        child.custom_id or ""
        for row in message.components
        if isinstance(row, discord.ActionRow)
        for child in row.children
        if isinstance(child, discord.Button)
    ]


def button_actions(message: discord.Message) -> list[str]:
    """Return what the buttons below a message do, in order: their custom ids without tokens."""
    return [_TOKEN.sub(r"\1:", custom_id) for custom_id in buttons(message)]


async def opened(attachment: discord.Attachment) -> Image.Image:
    """Return an attachment as a picture."""
    return Image.open(io.BytesIO(await attachment.read()))


class GatedEngine:
    """The real engine behind a gate: while it is shut, no step is taken."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def measured(self) -> Measured:
        # Room for one job at a time, so that it is certain who waits, and at which place.
        measured = self._engine.measured()
        smallest = min(measured.step_seconds.items())
        return dataclasses.replace(measured, step_seconds=dict([smallest]))

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[Denoising] | GenerationError]:
        return self._engine.begin(requests)

    def step(self, images: Sequence[Denoising]) -> None:
        if not self._open.wait(timeout=30):
            raise TimeoutError("the gate stayed shut")
        self._engine.step(images)

    def finish(self, images: Sequence[Denoising]) -> list[GeneratedImage | None]:
        return self._engine.finish(images)

    def preview(self, image: Denoising) -> Pixels | None:
        return self._engine.preview(image)

    def release_unused(self) -> None:
        self._engine.release_unused()

    def close(self) -> None:
        self._engine.close()
