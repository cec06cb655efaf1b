"""The jobs on the engine: which take the next step, and which images are decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from generation.errors import OutOfMemory
from generation.queue.fairness import Share
from generation.queue.running import RunningJobs
from generation.queue.tickets import Ticket
from generation.timing import Measured
from generation.values.recipe import GeneratedImage

from ..examples import a_recipe, a_request, gradient
from ..queues import FakeEngine, FakeImage, a_stage, seeds_of


class Jobs:
    """Running jobs by name, of which `together` images of 64x64 share a decoder call."""

    def __init__(self, together: int = 4) -> None:
        self.running: RunningJobs[FakeImage] = RunningJobs()
        self.running.use(
            Measured(pixels=64 * 64, step_seconds={2: 1.0}, decode_seconds={together: 1.0})
        )
        self.tickets: dict[str, Ticket] = {}

    def add(self, name: str, *, taken: int = 0, active: bool = True, **changes: Any) -> Ticket:
        request = a_request(steps=3, **changes)
        nothing = cast("Any", None)
        self.tickets[name] = Ticket(
            job_id=len(self.tickets),
            request=request,
            listener=lambda _: None,
            share=Share(),
            started=nothing,
            images=nothing,
            active=active,
        )
        images = [FakeImage(request.alone(n), n, taken) for n in range(request.count)]
        self.running.add(self.tickets[name], images)
        return self.tickets[name]

    def next_step(self) -> set[str]:
        chosen = self.running.next_step()
        return {name for name, ticket in self.tickets.items() if ticket in chosen}

    def next_decoding(self) -> list[str]:
        names = {ticket: name for name, ticket in self.tickets.items()}
        return [f"{names[one.ticket]}{one.number}" for one in self.running.next_decoding()]


def picture(index: int) -> GeneratedImage:
    return GeneratedImage(index=index, pixels=gradient(), recipe=a_recipe())


class TestNextStep:
    def test_active_jobs_of_one_size_step_together(self) -> None:
        jobs = Jobs()
        jobs.add("a")
        jobs.add("b")
        jobs.add("waits", active=False)
        jobs.add("denoised", taken=3)
        assert jobs.next_step() == {"a", "b"}

    def test_sizes_take_steps_in_turn(self) -> None:
        jobs = Jobs()
        jobs.add("small")
        jobs.add("wide", width=128)
        steps = [jobs.next_step() for _ in range(6)]
        assert all(len(step) == 1 for step in steps)
        # A step of the wide one costs twice as much.
        assert steps.count({"small"}) == 2 * steps.count({"wide"})

    def test_without_active_jobs_there_is_no_step(self) -> None:
        jobs = Jobs()
        jobs.add("waits", active=False)
        assert jobs.next_step() == set()
        assert not jobs.running.have_work


class TestNextDecoding:
    @pytest.mark.parametrize(
        ("together", "decoded"),
        [(1, ["a0"]), (2, ["a0", "a1"]), (3, ["a0", "a1", "c0"]), (9, ["a0", "a1", "c0"])],
    )
    def test_as_many_images_as_share_a_call(self, together: int, decoded: list[str]) -> None:
        jobs = Jobs(together)
        jobs.add("a", taken=3, count=2)
        jobs.add("b", taken=2)
        jobs.add("c", taken=3)
        assert jobs.next_decoding() == decoded

    def test_only_images_of_one_size(self) -> None:
        jobs = Jobs()
        jobs.add("wide", taken=3, width=128)
        jobs.add("small", taken=3)
        jobs.add("next", taken=3, width=128)
        assert jobs.next_decoding() == ["wide0", "next0"]

    def test_a_job_that_waits_for_its_turn_is_decoded_too(self) -> None:
        jobs = Jobs()
        jobs.add("a", taken=3, active=False)
        assert jobs.next_decoding() == ["a0"]
        assert jobs.running.have_work

    def test_finished_images_are_not_decoded_again(self) -> None:
        jobs = Jobs()
        ticket = jobs.add("a", taken=3, count=3)
        jobs.running[ticket].pictures[1] = picture(1)
        assert jobs.next_decoding() == ["a0", "a2"]


class TestOneJob:
    def test_pictures_are_in_the_order_of_the_images(self) -> None:
        jobs = Jobs()
        job = jobs.running[jobs.add("a", taken=3, count=3)]
        for number in (2, 0, 1):
            assert job.unfinished
            job.pictures[number] = picture(number)
        assert not job.unfinished
        assert [made.index for made in job.ordered_pictures] == [0, 1, 2]

    def test_the_failure_of_an_image_is_the_failure_of_its_job(self) -> None:
        jobs = Jobs()
        job = jobs.running[jobs.add("a", count=2)]
        assert job.failure is None
        job.images[1].failure = OutOfMemory()
        assert isinstance(job.failure, OutOfMemory)


@dataclass
class Decoding(FakeEngine):
    together: int = 1
    decoded: list[list[int]] = field(default_factory=list)
    steps_before: list[int] = field(default_factory=list)

    def measured(self) -> Measured:
        return Measured(
            pixels=64 * 64, step_seconds={8: 0.01}, decode_seconds={self.together: 0.001}
        )

    def finish(self, images: Sequence[FakeImage]) -> list[GeneratedImage | None]:
        self.decoded.append([image.request.seed for image in images])
        self.steps_before.append(len(self.calls))
        return super().finish(images)


class TestDecoding:
    @pytest.mark.parametrize(
        ("together", "calls"),
        [(1, [[10], [11], [12], [20], [21]]), (2, [[10, 11], [12, 20], [21]])],
    )
    async def test_between_two_steps_only_one_decoder_call_is_made(
        self, together: int, calls: list[list[int]]
    ) -> None:
        engine = Decoding(together=together)
        async with a_stage(engine) as stage:
            await stage.queue.ready()
            first, second = stage.submit(10, steps=1, count=3), stage.submit(20, steps=1, count=2)
            engine.open_gates()
            assert await seeds_of(first) == [10, 11, 12]
            assert await seeds_of(second) == [20, 21]
        assert engine.decoded == calls

    async def test_fewer_large_pictures_share_a_decoder_call(self) -> None:
        engine = Decoding(together=2)
        async with a_stage(engine) as stage:
            await stage.queue.ready()
            large = stage.submit(10, steps=1, count=2, width=128)
            small = stage.submit(20, steps=1, count=2)
            engine.open_gates()
            assert await seeds_of(large) == [10, 11]
            assert await seeds_of(small) == [20, 21]
        assert sorted(engine.decoded) == [[10], [11], [20, 21]]

    async def test_other_jobs_take_steps_between_the_pictures_of_a_job(self) -> None:
        engine = Decoding()
        async with a_stage(engine) as stage:
            await stage.queue.ready()
            several = stage.submit(10, steps=1, count=3)
            await stage.at_gate()
            other = stage.submit(50, steps=9)
            engine.open_gates()
            assert await seeds_of(several) == [10, 11, 12]
            assert await seeds_of(other) == [50]
        assert engine.decoded == [[10], [11], [12], [50]]
        assert engine.steps_before == [1, 2, 3, 10]
