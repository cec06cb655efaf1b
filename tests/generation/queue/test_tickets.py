from __future__ import annotations

import asyncio

import pytest

from generation.queue.fairness import Share, cost
from generation.queue.tickets import Ticket
from generation.values.events import Progress
from generation.values.request import GenerationRequest, SchedulerName

from ..examples import a_request, gradient


def a_ticket(request: GenerationRequest) -> Ticket:
    loop = asyncio.new_event_loop()
    try:
        return Ticket(
            job_id=1,
            request=request,
            listener=lambda _: None,
            share=Share(),
            started=loop.create_future(),
            images=loop.create_future(),
        )
    finally:
        loop.close()


@pytest.mark.parametrize(("scheduler", "calls"), [("euler", 1), ("heun", 2), ("dpmpp_sde", 2)])
def test_a_step_of_two_calls_is_two_steps_of_the_engine(
    scheduler: SchedulerName, calls: int
) -> None:
    request = a_request(scheduler=scheduler, steps=20, source=gradient(), strength=0.5)
    ticket = a_ticket(request)
    # A call holds the same rows with each scheduler: only the number of calls differs.
    single = a_ticket(a_request(scheduler="ddim", steps=1))
    assert ticket.load == pytest.approx(single.load)
    assert ticket.steps == 10 * calls
    assert ticket.steps * ticket.load == pytest.approx(cost(request))
    assert ticket.progress == Progress(0, 10)
    ticket.advance(4)
    assert ticket.progress == Progress(4, 10)
    assert ticket.remaining.steps == 6 * calls
