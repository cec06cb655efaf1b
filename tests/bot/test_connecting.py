"""The login and its retries."""

from __future__ import annotations

from typing import Any
from unittest import mock

import discord
import pytest
from pydantic import SecretStr

from bot import connecting
from bot.cli import doctor
from bot.config import Settings
from bot.connecting import log_in


class Client:
    """The part of a client that a login uses; each attempt has the next of `outcomes`."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.application: object = None
        self.http = mock.Mock(close=mock.AsyncMock())

    async def login(self, _token: str) -> None:
        if (outcome := self.outcomes.pop(0)) is not None:
            raise outcome


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "DELAYS", (0.0,))


@pytest.mark.parametrize(
    "kind", [TypeError, KeyError, AttributeError, OSError, discord.InvalidData]
)
async def test_a_login_with_a_garbled_answer_is_retried(kind: type[Exception]) -> None:
    client: Any = Client(kind("id"), kind("id"), None)
    await log_in(client, "token")
    assert client.outcomes == []
    assert client.http.close.await_count == 2


async def test_a_fault_of_the_bot_after_the_login_is_raised() -> None:
    client: Any = Client(TypeError("a fault of the bot"), None)
    client.application = object()
    with pytest.raises(TypeError, match="of the bot"):
        await log_in(client, "token")


def test_doctor_says_that_an_answer_to_its_login_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discord.Client, "login", mock.AsyncMock(side_effect=TypeError("id")))
    finding = doctor._token(Settings(token=SecretStr("abc.def.ghi")), None)
    assert finding.text == "could not be tried"
    assert "TypeError: id" in finding.fix
