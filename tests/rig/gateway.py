"""The gateway: sessions that outlive their connections, and what comes in over a connection."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

import discord
from aiohttp import WSMsgType, web
from simcord.backend import serializers
from simcord.gateway import FakeGateway
from simcord.intents import missing_privileged_intents

from .world import World

_HEARTBEAT_MS: Final = 41_250
_REPLAYED: Final = 2_000


class _Op(IntEnum):
    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    PRESENCE = 3
    RESUME = 6
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class _Close(IntEnum):
    AUTHENTICATION_FAILED = 4004
    DISALLOWED_INTENTS = 4014


class _Link:
    """One WebSocket connection; what is sent goes out in order."""

    def __init__(self, request: web.Request) -> None:
        self.socket = web.WebSocketResponse(max_msg_size=0)
        self._request = request
        self._outbox: asyncio.Queue[str] = asyncio.Queue()

    async def open(self) -> None:
        await self.socket.prepare(self._request)

    def send(self, op: _Op, data: Any = None) -> None:
        self.send_text(json.dumps({"op": op, "d": data, "s": None, "t": None}))

    def send_text(self, text: str) -> None:
        self._outbox.put_nowait(text)

    async def pump(self) -> None:
        """Send what was put into the outbox until the connection is gone."""
        with suppress(ConnectionError):
            while True:
                await self.socket.send_str(await self._outbox.get())

    def cut(self) -> None:
        """Break the connection without a word, as a network does."""
        if self._request.transport is not None:
            self._request.transport.abort()


class _Parsers(Mapping[str, Callable[[Any], None]]):
    """Stands where SimCord looks for discord.py's parsers, and sends the events off instead."""

    def __init__(self, dispatch: Callable[[str, Any], None]) -> None:
        self._dispatch = dispatch

    def __getitem__(self, event: str) -> Callable[[Any], None]:
        return lambda data: self._dispatch(event, data)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _ConnectionState:
    """As much of discord.py's state as SimCord's gateway reads."""

    def __init__(self, intents: discord.Intents, parsers: _Parsers) -> None:
        self.intents = intents
        self.parsers = parsers


class Session:
    """What a bot has identified as; it keeps events for a bot that comes back with RESUME."""

    def __init__(self, key: str, world: World, intents: discord.Intents, link: _Link) -> None:
        self.key = key
        self.link: _Link | None = link
        self._sequence = 0
        self._sent: deque[tuple[int, str]] = deque(maxlen=_REPLAYED)
        self._backend = world.backend
        self._feed = FakeGateway(
            world.backend, _ConnectionState(intents, _Parsers(self.dispatch))
        ).feed
        world.backend.subscribers.append(self._feed)

    def dispatch(self, event: str, data: Any) -> None:
        """Send an event, now or when the bot is back."""
        self._sequence += 1
        text = json.dumps({"op": _Op.DISPATCH, "t": event, "s": self._sequence, "d": data})
        self._sent.append((self._sequence, text))
        if self.link is not None:
            self.link.send_text(text)

    def welcome(self, gateway_url: str) -> None:
        """Send READY, and every guild as discord.py waits for it."""
        backend = self._backend
        self.dispatch(
            "READY",
            {
                "v": 10,
                "user": dict(serializers.user_payload(backend.bot_user)),
                "guilds": [{"id": str(key), "unavailable": True} for key in backend.guilds],
                "session_id": self.key,
                "resume_gateway_url": gateway_url,
                "shard": [0, 1],
                "application": {"id": str(backend.application_id), "flags": 0},
            },
        )
        for guild in list(backend.guilds.values()):
            self._feed("GUILD_CREATE", serializers.guild_create_payload(backend, guild))

    def resume(self, link: _Link, seen: int) -> None:
        """Send what the bot has missed since the event numbered `seen`."""
        self.link = link
        for sequence, text in self._sent:
            if sequence > seen:
                link.send_text(text)
        self.dispatch("RESUMED", {})

    def end(self) -> None:
        """Forget the session."""
        self._backend.subscribers.remove(self._feed)


class Gateway:
    """Serves `/gateway`, and counts what the bots did there."""

    def __init__(self, world: World, url: str, token: str, approved: discord.Intents) -> None:
        self.identified = 0
        self.resumed = 0
        self.refused = 0
        self.gaps: list[str] = []
        self._world = world
        self._url = url
        self.token = token
        self._approved = approved
        self._sessions: dict[str, Session] = {}
        self._links: list[_Link] = []

    @property
    def connected(self) -> bool:
        """Whether a bot that has identified is on the line."""
        return any(session.link is not None for session in self._sessions.values())

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Talk to one connection until it ends."""
        link = _Link(request)
        await link.open()
        self._links.append(link)
        pump = asyncio.create_task(link.pump())
        link.send(_Op.HELLO, {"heartbeat_interval": _HEARTBEAT_MS})
        try:
            async for frame in link.socket:
                if frame.type is WSMsgType.TEXT:
                    await self._receive(link, json.loads(frame.data))
        finally:
            self._links.remove(link)
            self._hang_up(link)
            pump.cancel()
            await asyncio.wait([pump])
        return link.socket

    def drop_sockets(self, *, resumable: bool = True) -> int:
        """Cut every connection and return how many there were.

        The sessions stay, unless they are not to be `resumable`.
        """
        links = list(self._links)
        for link in links:
            self._hang_up(link)
            link.cut()
        if not resumable:
            self._forget(list(self._sessions.values()))
        return len(links)

    async def _receive(self, link: _Link, frame: dict[str, Any]) -> None:
        op, data = frame["op"], frame["d"]
        if op == _Op.HEARTBEAT:
            link.send(_Op.HEARTBEAT_ACK)
        elif op in (_Op.IDENTIFY, _Op.RESUME) and data["token"].removeprefix("Bot ") != self.token:
            await link.socket.close(
                code=_Close.AUTHENTICATION_FAILED, message=b"Authentication failed."
            )
        elif op == _Op.IDENTIFY:
            await self._identify(link, data)
        elif op == _Op.RESUME:
            self._resume(link, data)
        elif op != _Op.PRESENCE:
            self.gaps.append(f"gateway opcode {op}")

    async def _identify(self, link: _Link, data: dict[str, Any]) -> None:
        intents = discord.Intents._from_value(data["intents"])
        if missing_privileged_intents(intents, self._approved):
            await link.socket.close(
                code=_Close.DISALLOWED_INTENTS, message=b"Disallowed intent(s)."
            )
            return
        self._forget([session for session in self._sessions.values() if session.link is None])
        self.identified += 1
        session = Session(f"session-{self.identified}", self._world, intents, link)
        self._sessions[session.key] = session
        session.welcome(self._url)

    def _resume(self, link: _Link, data: dict[str, Any]) -> None:
        session = self._sessions.get(data["session_id"])
        if session is None:
            self.refused += 1
            resumable = False
            link.send(_Op.INVALID_SESSION, resumable)
            return
        self.resumed += 1
        session.resume(link, data["seq"] or 0)

    def _forget(self, sessions: list[Session]) -> None:
        for session in sessions:
            session.end()
            del self._sessions[session.key]

    def _hang_up(self, link: _Link) -> None:
        for session in self._sessions.values():
            if session.link is link:
                session.link = None
