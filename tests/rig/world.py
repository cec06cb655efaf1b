"""The state of the simulated Discord: SimCord's, on the real clock and with a CDN on loopback."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import discord
from PIL import Image
from simcord import Env
from simcord._clock import Clock
from simcord.actors import MemberActor
from simcord.backend import Backend
from simcord.backend.cdn import CdnStore
from simcord.backend.models import Message
from simcord.builders import ChannelHandle
from yarl import URL

from .errors import NeverHappened, NotThere
from .views import MessageView, view

_GLANCE = 0.01
_T = TypeVar("_T")


class WallClock(Clock):
    """SimCord's clock made to run; `advance` shifts it, so that tokens grow old."""

    def now(self) -> datetime:
        """Return the present time in UTC, plus what was advanced."""
        return datetime.now(UTC) + timedelta(seconds=self.elapsed)


class LoopbackCdn(CdnStore):
    """Attachments under a URL that can really be fetched, and pictures with their size."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = URL(base)

    def store_attachment(
        self,
        attachment_id: int,
        channel_id: int,
        filename: str,
        data: bytes,
        description: str | None,
    ) -> dict[str, Any]:
        """Keep the bytes and return the attachment's payload."""
        stored = super().store_attachment(attachment_id, channel_id, filename, data, description)
        url = str(self._base / "attachments" / str(channel_id) / str(attachment_id) / filename)
        self._blobs[url] = self._blobs.pop(stored["url"])
        return {**stored, "url": url, "proxy_url": url, **_size(stored["content_type"], data)}


def _size(content_type: str, data: bytes) -> dict[str, int]:
    """Return width and height as Discord adds them to what it recognises as a picture."""
    if not content_type.startswith("image/"):
        return {}
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return {"width": picture.width, "height": picture.height}
    except OSError:
        return {}


class _RemoteEnv(Env):
    """SimCord's environment around a bot that lives elsewhere, so nothing here can settle."""

    async def _settle_internal(self, **_: Any) -> None:
        return


class Watched(Protocol):
    """A process whose death ends every wait."""

    def check(self) -> None:
        """Raise `BotExited` if the process ended and nobody had asked it to."""

    def last_words(self) -> str:
        """Return the end of what it wrote."""


class World:
    """A guild with one channel, `alice` and `bob` in it, and everything that gets posted."""

    def __init__(self, cdn_url: str) -> None:
        # SimCord wants a client to read caches from; it never connects.
        self.env = _RemoteEnv(discord.Client(intents=discord.Intents.default()))
        self.backend: Backend = self.env.backend
        self.backend.clock = WallClock()
        self.backend.cdn = LoopbackCdn(cdn_url)
        self.guild = self.env.create_guild("Rabbit Fanciers")
        self.channel = self.guild.create_text_channel("general")
        self._members: dict[str, MemberActor] = {}
        self._watched: list[Watched] = []
        self._nonce: str | None = None
        self.backend.subscribers.append(self._add_nonce)
        for name in ("alice", "bob"):
            self.join(name)

    def join(self, name: str, permissions: discord.Permissions | None = None) -> MemberActor:
        """Let a new person join the guild, with a role of their own if they need permissions."""
        roles = (
            [self.guild.create_role(f"{name}'s", permissions=permissions)] if permissions else []
        )
        member = self.guild.add_member(self.env.create_user(name), roles=roles)
        self._members[name] = member
        return member

    def member(self, name: str) -> MemberActor:
        """Return the member of this name.

        Raises:
            NotThere: nobody of that name has joined.
        """
        try:
            return self._members[name]
        except KeyError:
            raise NotThere("member", name, self._members) from None

    def stored(self, message: MessageView | int) -> Message:
        """Return SimCord's own record of a message.

        Raises:
            NotThere: it was deleted or never was.
        """
        wanted = message if isinstance(message, int) else message.id
        for posted in self.backend.messages.values():
            if wanted in posted:
                return posted[wanted]
        raise NotThere(
            "message", wanted, [m for posted in self.backend.messages.values() for m in posted]
        )

    def look(self, message: MessageView | int) -> MessageView:
        """Return a message as it is now.

        Raises:
            NotThere: it was deleted or never was.
        """
        return view(self.backend, self.stored(message))

    def messages(
        self, channel: ChannelHandle | None = None, *, seen_by: str | None = None
    ) -> list[MessageView]:
        """Return a channel's messages, oldest first.

        Ephemeral ones are there only for the person who can see them.
        """
        viewer = None if seen_by is None else self.member(seen_by).id
        posted = self.backend.messages.get((channel or self.channel).id, {})
        return [
            view(self.backend, posted[key])
            for key in sorted(posted)
            if posted[key].visible_to(viewer)
        ]

    def direct_messages(self, who: str) -> list[MessageView]:
        """Return what the bot and this person wrote to each other, oldest first."""
        return self.messages(self.member(who).user.dm_channel, seen_by=who)

    def commands(self) -> list[str]:
        """Return the names of the commands that the bot has registered."""
        return sorted(command["name"] for command in _values(self.backend.commands.values()))

    def age(self, seconds: float) -> None:
        """Let time pass for Discord: interaction tokens die after 15 minutes of it."""
        self.backend.advance_clock(seconds)

    @contextmanager
    def announcing(self, nonce: str | None) -> Iterator[None]:
        """Put a nonce into the event of the message that is posted inside."""
        self._nonce = nonce
        try:
            yield
        finally:
            self._nonce = None

    def _add_nonce(self, event: str, payload: Mapping[str, Any]) -> None:
        if event == "MESSAGE_CREATE" and isinstance(payload, dict):
            payload["nonce"] = self._nonce

    def watch(self, process: Watched) -> None:
        """Let the death of a process end every wait."""
        self._watched.append(process)

    def unwatch(self, process: Watched) -> None:
        """Forget a process."""
        self._watched.remove(process)

    async def until(
        self, condition: Callable[[], _T], *, within: float = 10.0, what: str = "what was awaited"
    ) -> _T:
        """Wait until a condition holds and return its value.

        Raises:
            NeverHappened: it stayed false for `within` seconds.
            BotExited: the bot died meanwhile.
        """
        deadline = time.monotonic() + within
        while not (value := condition()):
            for process in self._watched:
                process.check()
            if time.monotonic() > deadline:
                error = NeverHappened(what, within)
                for process in self._watched:
                    error.add_note(f"the bot wrote:\n{process.last_words()}")
                raise error
            await asyncio.sleep(_GLANCE)
        return value


def _values(scopes: Iterable[Mapping[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [command for scope in scopes for command in scope.values()]
