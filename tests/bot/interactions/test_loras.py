"""Suggestions of LoRAs: little work, however fast many people type."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from unittest import mock

from bot.interactions.loras import LoraSuggestions
from bot.requests.loras import Suggestion


class Typed:
    """The LoRAs of a model whose folder is slow to read."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.most = 0
        self.may_go = threading.Event()
        self._reading = 0
        self._lock = threading.Lock()

    def suggest(self, typed: str, _limit: int) -> list[Suggestion]:
        with self._lock:
            self._reading += 1
            self.most = max(self.most, self._reading)
        assert self.may_go.wait(30)
        with self._lock:
            self._reading -= 1
            self.read.append(typed)
        return [Suggestion(typed, ())]


async def test_only_the_newest_text_of_a_person_is_looked_up_and_one_folder_at_a_time() -> None:
    slow = Typed()
    models: Any = mock.Mock(named_or_default=lambda *_: mock.Mock(loras=slow))
    suggestions = LoraSuggestions(mock.Mock(), models)

    def types(person: int, text: str) -> asyncio.Task[Any]:
        requester: Any = mock.Mock(person=mock.Mock(id=person))
        return asyncio.create_task(suggestions.suggest(requester, text, 25))

    typing = [types(1, "ink"[: n % 4] + str(n)) for n in range(20)]
    others = [types(person, f"of {person}") for person in (2, 3, 4)]
    await asyncio.sleep(0.05)
    slow.may_go.set()
    found = await asyncio.gather(*typing)
    assert found == [[Suggestion("0", ())], *[()] * 18, [Suggestion("ink19", ())]]
    assert await asyncio.gather(*others) == [[Suggestion(f"of {n}", ())] for n in (2, 3, 4)]
    assert slow.most == 1
    assert len(slow.read) == 5
