"""What the address of an attachment may do to the bot: a real server on loopback."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from unittest import mock

import aiohttp
import discord
import pytest
from aiohttp import web
from discord.http import HTTPClient

from bot.requests.downloading import download, download_source
from generation.errors import InvalidSource

PICTURE = b"a picture"


async def picture(_: web.Request) -> web.Response:
    return web.Response(body=PICTURE)


async def redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/picture")


async def compressed(_: web.Request) -> web.Response:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(bytes(50 * 2**20)) + packer.flush()
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(bytes(2**16))


async def slow(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(100):
        await answer.write(b"x")
        await asyncio.sleep(0.1)
    return answer


async def missing(_: web.Request) -> web.Response:
    raise web.HTTPNotFound


Attach = Callable[[str], discord.Attachment]


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    application = web.Application()
    for handler in (picture, redirect, compressed, endless, slow, missing):
        application.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def attachment(url: str, *, size: int = len(PICTURE)) -> discord.Attachment:
    http = HTTPClient(asyncio.get_running_loop())
    data = {"id": "1", "filename": "a.png", "size": size, "url": url, "proxy_url": url}
    return discord.Attachment(data=data, state=mock.Mock(http=http))  # type: ignore[arg-type]


async def fetched(origin: str, path: str, *, seconds: float = 20.0) -> bytes:
    return await download(
        attachment(f"{origin}/{path}"),
        most=2**20,
        origins=frozenset({origin}),
        seconds=seconds,
    )


async def test_a_file_from_an_allowed_origin_is_downloaded(origin: str) -> None:
    assert await fetched(origin, "picture") == PICTURE


@pytest.mark.parametrize("path", ["redirect", "compressed", "endless", "missing", "nowhere"])
async def test_any_other_fault_of_the_server_is_one_sentence(origin: str, path: str) -> None:
    with pytest.raises(InvalidSource, match="could not be fetched from Discord; please attach it"):
        await fetched(origin, path)


async def test_an_endless_download_is_aborted(origin: str) -> None:
    with pytest.raises(InvalidSource, match="could not be fetched"):
        await fetched(origin, "slow", seconds=0.3)


@pytest.mark.parametrize(
    "url",
    [
        "{origin}/picture",
        "http://cdn.discordapp.com/a.png",
        "https://cdn.discordapp.com.evil.example/a.png",
        "https://user@evil.example/cdn.discordapp.com",
        "file:///etc/passwd",
        "not an address",
    ],
)
async def test_only_discords_own_servers_are_asked(
    origin: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = mock.Mock(side_effect=AssertionError("it was asked"))
    monkeypatch.setattr(aiohttp.ClientSession, "get", asked)
    with pytest.raises(InvalidSource, match="could not be fetched"):
        await download_source(attachment(url.format(origin=origin)))
    assert not asked.called
