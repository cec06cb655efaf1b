"""What people see of the engine's states in the messages of a simulated Discord."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from bot.client import MakeEngine
from bot.ui import states
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import EngineLost
from generation.timing import Measured

from ..stage import GatedEngine, Stage

LOADING = "the model is being loaded"
STARTS_AGAIN = "the engine stopped and starts again; your place was kept"
FAILED = "the engine failed and this starts again; your place was kept"
RESTARTED = "the bot was restarted; your place was kept"


class LoadedByHand(GatedEngine):
    """The real engine, which is loaded when the test lets it, and lost when the test wants it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.may_load = threading.Semaphore(0)
        self.is_lost = threading.Event()

    def open(self) -> None:
        super().open()
        self.may_load.release(9)

    def lose(self) -> None:
        """Have the step that the engine is at end with the loss of the engine."""
        self.is_lost.set()
        super().open()

    def measured(self) -> Measured:
        assert self.may_load.acquire(timeout=60)
        return super().measured()

    def step(self, images: Sequence[Denoising]) -> None:
        super().step(images)
        if self.is_lost.is_set():
            self.is_lost.clear()
            self.shut()
            raise EngineLost("The engine is lost: its process ended with exit code -9.")


@pytest.fixture
def gate(engine: Engine) -> LoadedByHand:
    gated = LoadedByHand(engine)
    gated.shut()
    return gated


@pytest.fixture
def make_engine(gate: LoadedByHand) -> MakeEngine:
    return lambda: gate


async def ask(stage: Stage, count: int) -> list[int]:
    """Have people ask for so many pictures; return their messages."""
    people = (stage.alice, stage.bob, stage.mo)
    results = [
        await people[number % 3].slash(stage.channel, "imagine", prompt="owl", steps=3)
        for number in range(count)
    ]
    return [result.response.id for result in results]


def lines_of(stage: Stage, message_id: int) -> list[str]:
    """Return what was edited into a message, below the prompt, in order."""
    edits = [
        entry.json["content"].splitlines()[1]
        for entry in stage.env.http_requests
        if entry.method == "PATCH" and entry.path.endswith(f"/{message_id}") and entry.json
    ]
    return [line.rpartition(" · job ")[0] for line in edits]


async def all_say(stage: Stage, messages: Sequence[int], words: str) -> None:
    for message_id in messages:
        await stage.until(lambda m=message_id: words in stage.look(m).content)


async def test_messages_say_what_a_job_waits_for_from_loading_over_a_loss_to_the_picture(
    stage: Stage, gate: LoadedByHand
) -> None:
    first, second = messages = await ask(stage, 2)
    # At once, and not with an edit.
    assert all(LOADING in stage.look(message_id).content for message_id in messages)
    assert lines_of(stage, first) == []

    gate.may_load.release()
    await all_say(stage, [first], "▱ 0 %")
    await all_say(stage, [second], "in the queue")
    before = len(lines_of(stage, first)), len(lines_of(stage, second))
    gate.lose()
    await all_say(stage, messages, STARTS_AGAIN)
    # Nothing else is shown on the way to that, and no time stands beside it.
    assert lines_of(stage, first)[before[0] :][-1] == STARTS_AGAIN
    assert lines_of(stage, second)[before[1] :][-1] == STARTS_AGAIN

    gate.may_load.release()
    await all_say(stage, [first], "▱ 0 %")
    await all_say(stage, [second], "in the queue")
    gate.open()
    for message_id in messages:
        await stage.finished(message_id)
    lines = lines_of(stage, first)
    again = lines[lines.index(STARTS_AGAIN) + 1 :]
    assert "▱ 0 %" in next(line for line in again if "%" in line)


async def test_after_a_restart_the_old_progress_is_gone_and_the_place_is_said_to_be_kept(
    stage: Stage, gate: LoadedByHand
) -> None:
    gate.may_load.release()
    first, second, third = await ask(stage, 3)
    await all_say(stage, [first], "▱ 0 %")
    gate.shut()
    closing = stage.restart()
    super(LoadedByHand, gate).open()
    await closing
    gate.shut()
    await all_say(stage, [first, second, third], "the bot was restarted and the model is being")
    gate.may_load.release()
    await all_say(stage, [second, third], f"{RESTARTED} · ")
    assert not stage.look(second).attachments
    gate.open()
    for message_id in (first, second, third):
        await stage.finished(message_id)


async def test_six_people_in_a_channel_read_no_places_that_contradict_each_other(
    stage: Stage, gate: LoadedByHand
) -> None:
    gate.may_load.release()
    messages = await ask(stage, 6)
    await all_say(stage, messages[:1], " 0 %")
    await all_say(stage, messages[1:], "in the queue")
    gate.open()
    for message_id in messages:
        await stage.finished(message_id)
    waiting = [
        line for message_id in messages for line in lines_of(stage, message_id) if "queue" in line
    ]
    assert waiting
    # No number of a place in any of them: a time, or the words for the front.
    front = states.place(1)
    assert all(line == front or line.startswith("in the queue · ") for line in waiting)


async def test_a_step_that_takes_far_too_long_is_said_to_and_the_estimates_go(
    stage: Stage, gate: LoadedByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.queue.updates._SILENCE_SECONDS", 0.5)
    gate.may_load.release()
    first, second = await ask(stage, 2)
    await all_say(stage, [first], "0 % · taking longer than expected")
    await all_say(stage, [second], states.place(1))
    gate.open()
    for message_id in (first, second):
        await stage.finished(message_id)
