"""What people read of a job that is not finished."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.delivery.updates import ChannelUpdates, Shown, Update
from bot.ui import messages, states
from generation.queue.fairness import Share
from generation.queue.tickets import Ticket
from generation.queue.updates import JobUpdates
from generation.timing import Measured
from generation.values.events import Event, Loading, Progress, Waiting
from generation.values.pixels import Pixels

from .test_messages import JOB, REQUEST


def said(event: Event | None) -> str:
    """Return the line below the prompt, without the number of the job."""
    line = messages.waiting(JOB, event).splitlines()[-1]
    assert line.endswith(" · job 42")
    return line.removesuffix(" · job 42")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (None, "queued"),
        (Loading(), "the model is being loaded"),
        (Loading("engine"), "the engine stopped and starts again; your place was kept"),
        (
            Loading("bot"),
            "the bot was restarted and the model is being loaded; your place was kept",
        ),
        (Waiting(1), "in the queue, near the front"),
        (Waiting(8), "in the queue, about 10 ahead"),
        (Waiting(8, nearest=5), "in the queue, near the front"),
        (Waiting(60), "in the queue, about 50 ahead"),
        (Waiting(900), "in the queue, far back"),
        (Waiting(3, 2.0), "in the queue · a few seconds"),
        (Waiting(3, 6.0), "in the queue · about 10 s"),
        (Waiting(3, 26.0), "in the queue · about 30 s"),
        (Waiting(3, 59.0), "in the queue · about 60 s"),
        (Waiting(3, 200.0), "in the queue · about 3 min"),
        (Waiting(1, math.inf), "in the queue, near the front"),
        (
            Waiting(1, 30.0, after="engine"),
            "the engine failed and this starts again; your place was kept · about 30 s",
        ),
        (
            Waiting(2, after="bot"),
            "the bot was restarted; your place was kept · in the queue, near the front",
        ),
        (Progress(0, 25), "▱▱▱▱▱▱▱▱▱▱ 0 %"),
        (Progress(8, 25), "▰▰▰▱▱▱▱▱▱▱ 32 %"),
        (Progress(25, 25), "▰▰▰▰▰▰▰▰▰▰ 100 %"),
        (Progress(10, 25, 12.3), "▰▰▰▰▱▱▱▱▱▱ 40 % · about 12 s left"),
        (Progress(25, 25, 0.2), "▰▰▰▰▰▰▰▰▰▰ 100 % · a moment left"),
        (Progress(10, 25, 12.3, late=True), "▰▰▰▰▱▱▱▱▱▱ 40 % · taking longer than expected"),
    ],
)
def test_each_state_reads_as_a_short_line(event: Event | None, line: str) -> None:
    assert said(event) == line


@given(st.integers(1, 2_000), st.integers(1, 2_000))
def test_a_nearer_place_never_reads_as_a_farther_one(one: int, other: int) -> None:
    near, far = sorted((one, other))
    assert RANKS[states.place(near)] <= RANKS[states.place(far)]


RANKS = {states.place(position): position for position in (1, 10, 50, 100, 1_000)}


class Line:
    """Jobs in the order in which they run, of which some are shown in one channel.

    What they are told is the queue's own, and what is shown when is the pacer's.
    """

    def __init__(self, count: int, channel: set[int]) -> None:
        self.updates = JobUpdates()
        self.updates.engine_ready(
            Measured(pixels=4096, step_seconds={2: 0.1}, decode_seconds={1: 0.1})
        )
        # Without times, so that all are told their places.
        self.updates.engine_silent()
        self.channel = ChannelUpdates()
        self.messages: dict[int, str] = {}
        self.waiting = [self._ticket(number, number in channel) for number in range(count)]
        self.updates.refresh([], self.waiting)

    def _ticket(self, number: int, is_shown: bool) -> Ticket:
        def listener(event: Event) -> None:
            if is_shown:
                self.channel.latest[number] = Update(job, number, event, 0.0)

        job = replace(JOB, id=number)
        nothing = cast("Any", None)
        return Ticket(
            job_id=number,
            request=REQUEST,
            listener=listener,
            share=Share(),
            started=nothing,
            images=nothing,
        )

    def start(self, count: int) -> None:
        for _ in range(min(count, len(self.waiting))):
            first = self.waiting.pop(0)
            self.updates.tell_progress(first, Progress(0, 2))

    def leave(self, place: int) -> None:
        """Have a job end that waits, as the pacer is told."""
        if place < len(self.waiting):
            gone = self.waiting.pop(place)
            for known in (self.channel.latest, self.channel.shown, self.messages):
                known.pop(gone.job_id, None)

    def overtake(self, count: int) -> None:
        """Have somebody else's jobs come in ahead of all others, as a fair order may."""
        self.waiting = [*(self._ticket(-1, False) for _ in range(count)), *self.waiting]

    def show(self, turns: int) -> None:
        for _ in range(turns):
            self.channel.has_changes()
            if (update := self.channel.next()) is not None:
                self.channel.shown[update.job.id] = Shown(update, update.event)
                self.messages[update.job.id] = states.state(update.event)[0]

    def ranks(self) -> Iterator[tuple[int, int]]:
        """Yield the jobs that wait and read a place, in order, with how far back that is."""
        for ticket in self.waiting:
            text = self.messages.get(ticket.job_id)
            if text in RANKS:
                yield ticket.job_id, RANKS[text]


# Large enough that places come to read otherwise, and mostly with few turns of the channel.
MOVES = [("start", 7), ("start", 20), ("leave", 3), ("overtake", 15), ("show", 1), ("show", 1)]


@settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.lists(st.integers(1, 12), min_size=2, max_size=5),
    st.lists(st.sampled_from(MOVES), min_size=10, max_size=30),
)
def test_places_in_a_channel_contradict_neither_each_other_nor_what_was_said_before(
    first: int, gaps: list[int], moves: list[tuple[str, int]]
) -> None:
    channel = {first, *(first + sum(gaps[:count]) for count in range(1, len(gaps)))}

    async def play() -> None:
        line = Line(max(channel) + 10, channel)
        before: dict[int, int] = {}
        for what, number in moves:
            match what:
                case "start":
                    line.start(number)
                case "leave":
                    line.leave(number)
                case "overtake":
                    line.overtake(number)
                case "show":
                    line.show(number)
            line.updates.refresh([], line.waiting)
            ranks = dict(line.ranks())
            assert list(ranks.values()) == sorted(ranks.values())
            assert all(rank <= before.get(job, rank) for job, rank in ranks.items())
            before |= ranks

    asyncio.run(play())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3.0, "a moment"),
        (0.99, "a moment"),
        (1.0, "about 1 s"),
        (12.4, "about 12 s"),
        (19.6, "about 20 s"),
        (58, "about 60 s"),
        (94, "about 90 s"),
        (118, "about 2 min"),
        (12 * 60 + 20, "about 12 min"),
        (3_590, "about 1 h"),
        (5_500, "about 1.5 h"),
        (9.8 * 3_600, "about 10 h"),
        (100_000, "about 28 h"),
    ],
)
def test_an_estimate_is_said_in_the_unit_that_people_use(seconds: float, said: str) -> None:
    assert states.duration(seconds) == said


UNITS = {"s": 1, "min": 60, "h": 3_600}


def meant(said: str) -> float:
    number, unit = said.removeprefix("about ").split()
    return float(number) * UNITS[unit]


estimates = st.floats(1, 1e6)


@given(estimates, estimates)
def test_a_longer_time_is_never_said_to_be_shorter(one: float, other: float) -> None:
    short, long = (states.duration(seconds) or "" for seconds in sorted((one, other)))
    assert meant(short) <= meant(long)


@given(estimates)
def test_the_text_is_near_the_estimate(seconds: float) -> None:
    assert abs(meant(states.duration(seconds) or "") - seconds) <= max(0.5, 0.26 * seconds)


@given(st.sampled_from([math.inf, -math.inf, math.nan]))
def test_a_time_that_is_not_finite_has_no_text(seconds: float) -> None:
    assert states.duration(seconds) is None


def test_an_estimate_that_waited_to_be_shown_has_shrunk_and_one_that_ran_out_is_gone() -> None:
    assert states.aged(Progress(1, 4, 10.0), 2.5).seconds == 7.5
    assert states.aged(Waiting(2, 10.0), 10.5).seconds is None
    assert states.aged(Waiting(2), 10.5) == Waiting(2)
    preview = Pixels(1, 1, b"abc")
    event = states.aged(Progress(1, 4, 1.0, preview), 2.0)
    assert isinstance(event, Progress)
    assert event.preview is preview
