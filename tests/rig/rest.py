"""The REST API and the CDN: HTTP on one side, SimCord's routes on the other."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

import discord
from aiohttp import web
from simcord.backend import serializers
from simcord.backend.errors import BackendError
from simcord.http import RouteNotImplemented, UnsupportedField, dispatch

from .faults import CUT, Reply, Serve, Troubles
from .world import World

_UPLOAD_LIMIT: Final = 10 * 2**20
_NONCE_LASTS: Final = 180.0
_CALLBACK: Final = "/callback"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the bot made, and what came back: 0 stands for a cut connection."""

    method: str
    path: str
    status: int
    at: float
    """When the answer left, in seconds of `time.monotonic`."""
    json: Any = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A request as SimCord's routes take it."""

    method: str
    path: str
    params: dict[str, str]
    json: Any
    files: list[discord.File] = field(default_factory=list)
    authorization: str | None = None
    reason: str | None = None

    @property
    def needs_token(self) -> bool:
        """Whether the path carries no token of its own."""
        return not self.path.startswith(("/webhooks/", "/interactions/"))


class Rest:
    """Serves `/api/v10` and `/cdn`, and keeps a list of what was asked."""

    def __init__(
        self, world: World, gateway_url: str, token: str, approved: discord.Intents
    ) -> None:
        self.troubles = Troubles()
        self.requests: list[Request] = []
        self.gaps: list[str] = []
        self._world = world
        self._gateway_url = gateway_url
        self.token = token
        self._approved = approved
        self._nonces: dict[tuple[str, str], tuple[float, int]] = {}

    async def serve_api(self, request: web.Request) -> web.Response:
        """Answer a request to the API."""
        call = await _read(request)
        return await self._reply(
            request, call.method, call.path, call.json, lambda: self._answer(call)
        )

    async def serve_cdn(self, request: web.Request) -> web.Response:
        """Answer with the bytes of an attachment, or 404."""
        return await self._reply(
            request, request.method, request.path, None, lambda: self._file(request)
        )

    async def _reply(
        self, request: web.Request, method: str, path: str, body: Any, serve: Serve
    ) -> web.Response:
        trouble = self.troubles.strike(method, path, body)
        reply = serve() if trouble is None else await trouble.around(serve, request)
        self.requests.append(Request(method, path, reply.status, time.monotonic(), body))
        if reply is CUT and request.transport is not None:
            request.transport.abort()
        return _response(reply)

    def _file(self, request: web.Request) -> Reply:
        data = self._world.backend.cdn.get(str(request.url.with_query(None)))
        if data is None:
            return Reply(404, {"message": "404: Not Found", "code": 0})
        return Reply(200, data)

    def _answer(self, call: _Call) -> Reply:
        if call.needs_token and call.authorization != f"Bot {self.token}":
            return Reply(401, {"message": "401: Unauthorized", "code": 0})
        if any(file.fp.seek(0, io.SEEK_END) > _UPLOAD_LIMIT for file in call.files):
            return Reply(413, {"message": "Request entity too large", "code": 40005})
        for file in call.files:
            file.reset()
        try:
            body = self._body(call)
        except (RouteNotImplemented, UnsupportedField) as gap:
            self.gaps.append(str(gap))
            return Reply(gap.status, gap.to_json())
        except BackendError as error:
            return Reply(error.status, error.to_json())
        except (KeyError, TypeError, ValueError) as error:
            # SimCord's routes trust discord.py to send well-formed bodies.
            self.gaps.append(f"{call.method} {call.path} with such a body: {error!r}")
            return Reply(501, {"message": "Not simulated", "code": 0})
        return Reply(204) if body is None else Reply(200, body)

    def _body(self, call: _Call) -> Any:
        """Return the JSON of the answer: SimCord's, but for what it leaves out."""
        if call.method == "GET" and call.path in ("/gateway", "/gateway/bot"):
            return {"url": self._gateway_url, "shards": 1, "session_start_limit": _START_LIMIT}
        if call.method == "GET" and call.path == "/applications/@me":
            return self._dispatch(call, "/oauth2/applications/@me")
        if call.method == "POST" and _is_messages(call.path):
            return self._post_once(call)
        if call.method == "GET" and _is_messages(call.path):
            return [self._with_own_reactions(message) for message in self._history(call)]
        body = self._dispatch(call, call.path)
        if call.path.endswith(_CALLBACK) and not _wants_response(call.params):
            return None
        return body

    def _history(self, call: _Call) -> list[dict[str, Any]]:
        """Return messages, newest first; the limit on those `after` one spares the oldest."""
        if "after" not in call.params:
            return list(self._dispatch(call, call.path))
        limit = int(call.params.get("limit", "50"))
        every = replace(call, params={**call.params, "limit": str(sys.maxsize)})
        return list(self._dispatch(every, call.path))[-limit:]

    def _dispatch(self, call: _Call, path: str) -> Any:
        return dispatch(
            self._world.backend,
            call.method,
            path,
            json=call.json,
            params=dict(call.params),
            files=call.files,
            reason=call.reason,
            message_content_access=self._approved.message_content,
        )

    def _post_once(self, call: _Call) -> Any:
        """Post a message, or with an enforced nonce return the one that already bears it."""
        nonce = (call.json or {}).get("nonce")
        enforced = nonce is not None and bool(call.json.get("enforce_nonce"))
        key = (call.path, str(nonce))
        if enforced and (earlier := self._recent(key)) is not None:
            return {**earlier, "nonce": nonce}
        with self._world.announcing(nonce):
            body = self._dispatch(call, call.path)
        if enforced:
            self._nonces[key] = (self._now() + _NONCE_LASTS, int(body["id"]))
        return {**body, "nonce": nonce}

    def _recent(self, key: tuple[str, str]) -> dict[str, Any] | None:
        forgotten_at, message_id = self._nonces.get(key, (0.0, 0))
        channel_id = int(key[0].split("/")[2])
        message = self._world.backend.messages.get(channel_id, {}).get(message_id)
        if message is None or self._now() > forgotten_at:
            return None
        return dict(serializers.message_payload(self._world.backend, message))

    def _now(self) -> float:
        return self._world.backend.clock.now().timestamp()

    def _with_own_reactions(self, message: dict[str, Any]) -> dict[str, Any]:
        """Say which reactions are the bot's own, as SimCord does for a single message only."""
        stored = self._world.stored(int(message["id"]))
        own = serializers.message_payload(
            self._world.backend, stored, for_user=self._world.backend.bot_user.id
        )
        return {**message, "reactions": own["reactions"]}


_START_LIMIT: Final = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}


def _is_messages(path: str) -> bool:
    return path.startswith("/channels/") and path.endswith("/messages")


def _wants_response(params: dict[str, str]) -> bool:
    return params.get("with_response", "").lower() in ("1", "true")


async def _read(request: web.Request) -> _Call:
    body: Any = None
    files: list[discord.File] = []
    if request.content_type.startswith("multipart/"):
        body, files = _parts(await request.post())
    elif request.can_read_body:
        body = await request.json()
    return _Call(
        method=request.method,
        # SimCord unquotes emoji by itself.
        path="/" + request.rel_url.raw_path.split("/", 3)[3],
        params=dict(request.query),
        json=body,
        files=files,
        authorization=request.headers.get("Authorization"),
        reason=request.headers.get("X-Audit-Log-Reason"),
    )


def _parts(form: Any) -> tuple[Any, list[discord.File]]:
    """Return the JSON and the files of a multipart body, with their descriptions."""
    body = json.loads(form["payload_json"])
    message = body.get("data") or body
    described = {
        str(item.get("id")): item.get("description") for item in message.get("attachments") or []
    }
    uploads = {
        key.removeprefix("files[").removesuffix("]"): part
        for key, part in form.items()
        if isinstance(part, web.FileField)
    }
    return body, [
        discord.File(
            io.BytesIO(uploads[key].file.read()),
            filename=uploads[key].filename,
            description=described.get(key),
        )
        for key in sorted(uploads, key=int)
    ]


def _response(reply: Reply) -> web.Response:
    # discord.py wants this very Content-Type, without a charset, or it reads no JSON.
    if isinstance(reply.body, bytes):
        return web.Response(body=reply.body, status=reply.status, headers=reply.headers)
    if reply.body is None:
        return web.Response(status=reply.status or 500, headers=reply.headers)
    headers = {"Content-Type": "application/json", **reply.headers}
    return web.Response(body=json.dumps(reply.body).encode(), status=reply.status, headers=headers)
