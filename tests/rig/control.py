"""The simulated Discord as a test holds it: a world with people in it, served on loopback."""

from __future__ import annotations

import fnmatch
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import discord
from aiohttp import web

from .errors import NotSimulated
from .faults import Fault, Hold
from .gateway import Gateway
from .people import PeopledWorld
from .rest import Request, Rest

_BODY_LIMIT: Final = 64 * 2**20
TOKEN: Final = "a-token-that-only-the-rig-accepts"


class Discord(PeopledWorld):
    """A guild on `url`; the bot in it has `token`."""

    def __init__(self, port: int, approved: discord.Intents) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.token = TOKEN
        super().__init__(f"{self.url}/cdn")
        gateway_url = f"ws://127.0.0.1:{port}/gateway"
        self.gateway = Gateway(self, gateway_url, self.token, approved)
        self._rest = Rest(self, gateway_url, self.token, approved)

    @classmethod
    @asynccontextmanager
    async def start(cls, *, approved_intents: discord.Intents | None = None) -> AsyncIterator[Self]:
        """Serve on a free port; bots may use `approved_intents`, by default no privileged one.

        Raises:
            NotSimulated: at the end, if the bot met something that the rig does not serve.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        world = cls(listening.getsockname()[1], approved_intents or discord.Intents.default())
        runner = web.AppRunner(world._application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        try:
            yield world
        except BaseException as error:
            for gap in world.gaps:
                error.add_note(f"not simulated: {gap}")
            raise
        finally:
            world._rest.troubles.release_all()
            world.gateway.drop_sockets()
            await runner.cleanup()
        if gaps := world.gaps:
            raise NotSimulated(gaps)

    @property
    def requests(self) -> list[Request]:
        """All that bots have asked of the API and the CDN, oldest first."""
        return self._rest.requests

    @property
    def gaps(self) -> list[str]:
        """What bots have asked for that the rig does not simulate."""
        return self._rest.gaps + self.gateway.gaps

    def asked(self, method: str, path: str) -> list[Request]:
        """Return the requests that fit; `path` is a pattern like `/channels/*/messages`.

        A `*` of the pattern stands for slashes too.
        """
        return [
            request
            for request in self.requests
            if request.method == method and fnmatch.fnmatchcase(request.path, path)
        ]

    def fault(
        self,
        method: str,
        path: str,
        *,
        status: int | None = 500,
        code: int | None = 0,
        times: int = 1,
        retry_after: float = 1.0,
        carried_out: bool = False,
        containing: str = "",
    ) -> Fault:
        """Let the next `times` requests that fit, and whose JSON holds `containing`, go wrong.

        A `status` of None cuts the connection instead of an answer; `code` is Discord's own, and
        None has a proxy's web page answer. With `carried_out` the
        request has its effect all the same: the message is posted, only the bot cannot know.
        """
        fault = Fault(
            method,
            path,
            times,
            carried_out,
            containing,
            status=status,
            code=code,
            retry_after=retry_after,
        )
        self._rest.troubles.order(fault)
        return fault

    def hold(
        self,
        method: str,
        path: str,
        *,
        times: int = 1,
        carried_out: bool = False,
        containing: str = "",
    ) -> Hold:
        """Keep the next `times` requests that fit waiting, before or after their effect."""
        hold = Hold(method, path, times, carried_out, containing)
        self._rest.troubles.order(hold)
        return hold

    def drop_sockets(self, *, resumable: bool = True) -> int:
        """Cut the bot's gateway connections and return how many there were.

        The bot may RESUME, or without `resumable` has to identify again, for which discord.py
        takes five seconds.
        """
        return self.gateway.drop_sockets(resumable=resumable)

    def reset_token(self) -> None:
        """Make a new token, as the owner of a bot does; the old one is worth nothing."""
        self.token = self.gateway.token = self._rest.token = f"another-{self.token}"

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_get("/gateway", self.gateway.serve)
        application.router.add_get("/cdn/{path:.*}", self._rest.serve_cdn)
        application.router.add_route("*", "/api/v10/{path:.*}", self._rest.serve_api)
        return application
