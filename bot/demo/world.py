"""The simulated server: the real bot, a channel and two people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import discord
import simcord
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from simcord._clock import Clock

from ..client import ImagineBot, create_bot
from ..config import Settings
from ..ui import attachments

T = TypeVar("T")

GUILD: Final = "Emoji Friends"
CHANNEL: Final = "pictures"
_PROGRESS_SECONDS: Final = 1.0
_CHANGES: Final = frozenset({"MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE"})


class _DemoSettings(Settings):
    """Settings that ignore the environment, so that the demo is the same everywhere."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic passes it by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class _WallClock(Clock):
    """Gives the simulated server the time of day.

    SimCord's own clock stands still. Its count for timers goes on.
    """

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class World:
    """A server with the running bot. Alice is a moderator, Bob is not.

    The helper is another bot. Its reactions have no effect.
    """

    env: simcord.Env
    bot: ImagineBot
    channel: simcord.ChannelHandle
    alice: simcord.MemberActor
    bob: simcord.MemberActor
    helper: simcord.MemberActor

    def messages(self) -> list[discord.Message]:
        """Return the messages of the channel, oldest first."""
        return self.channel.history()

    def on_message_change(self, tell: Callable[[], None]) -> None:
        """Call `tell` whenever a message of the bot is created, changed or deleted.

        The bot itself does not get these events: it does not subscribe to them.
        """
        bot_id = str(self.env.backend.bot_user.id)

        def listen(event: str, payload: Mapping[str, Any]) -> None:
            author = payload.get("author", {"id": bot_id})
            if event in _CHANGES and author["id"] == bot_id:
                tell()

        self.env.backend.subscribers.append(listen)

    def offer_reaction(self, emoji: str) -> None:
        """React as the helper to every picture without a reaction.

        On the page people can join a reaction, but not start one.
        """
        backend = self.env.backend
        for message in tuple(backend.messages.get(self.channel.id, {}).values()):
            ours = message.author_id == backend.bot_user.id and not message.is_ephemeral
            names = [str(attachment["filename"]) for attachment in message.attachments]
            if ours and attachments.is_finished(names) and not message.reactions:
                backend.add_reaction(self.channel.id, message.id, emoji, self.helper.id)

    async def until(self, condition: Callable[[], T | None], *, seconds: float) -> T:
        """Return the first true value of `condition`, which is called after each message change.

        Raises:
            TimeoutError: no value was true in time.
        """
        changed = asyncio.Event()
        self.on_message_change(changed.set)
        async with asyncio.timeout(seconds):
            while not (value := condition()):
                await changed.wait()
                changed.clear()
        return value


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """Start the bot with the starter model on a new server; everything is removed afterwards.

    Raises:
        ModelError: the starter model is damaged.
    """
    with TemporaryDirectory(prefix="imagine-bot-demo-", ignore_cleanup_errors=True) as folder:
        settings = _DemoSettings(
            data=Path(folder),
            min_free_mb=0,
            model="starter",
            progress_seconds=_PROGRESS_SECONDS,
            # The terminal shows the requests of the simulated Discord alone.
            log_level="WARNING",
        )
        bot = create_bot(settings)
        # The bot reports its errors in its log and in its answers.
        async with simcord.run(bot, check_errors=False) as env:
            try:
                yield _populate(env, bot)
            finally:
                await bot.close()


def _populate(env: simcord.Env, bot: ImagineBot) -> World:
    clock = _WallClock()
    clock.elapsed = env.backend.clock.elapsed
    env.backend.clock = clock
    env.backend.edit_bot_profile("Imagine Bot")
    guild = env.create_guild(GUILD)
    moderators = guild.create_role(
        "Moderators", permissions=discord.Permissions(manage_messages=True)
    )
    return World(
        env=env,
        bot=bot,
        channel=guild.create_text_channel(
            CHANNEL, topic="Type /imagine, press Enter, say what you want to see, press Enter"
        ),
        alice=guild.add_member(env.create_user("alice"), roles=[moderators]),
        bob=guild.add_member(env.create_user("bob")),
        helper=guild.add_member(env.create_user("helper", bot=True)),
    )
