"""The instants at which a kill hurts most: each function leads the bot up to one and returns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

from ..running import WITH_PICTURES
from .run import Killing

Instant = Callable[[Killing], Awaitable[None]]

_CALLBACK: Final = "/interactions/*/callback"
_MESSAGES: Final = "/channels/*/messages"
_MESSAGE: Final = "/channels/*/messages/*"
# The bot may have been started just now, and its engine takes a while to load.
_PATIENCE: Final = 90.0
# Steps that no engine takes before somebody has pressed a button.
_LONG: Final = 150


async def before_the_commit(run: Killing) -> None:
    """The order is on its way: its picture is still being fetched."""
    hold = run.hold("GET", "/cdn/*")
    await run.vary()
    await hold.reached()


async def before_the_answer(run: Killing) -> None:
    """The job is committed, and nobody was told."""
    hold = run.hold("POST", _CALLBACK)
    await run.imagine()
    await hold.reached()


async def before_recording_the_answer(run: Killing) -> None:
    """The job's message stands in the channel, and the bot does not know which it is."""
    hold = run.hold("POST", _CALLBACK, carried_out=True)
    await run.imagine()
    await hold.reached()


async def before_the_reply(run: Killing) -> None:
    """A job from a reaction is committed, and nobody was told."""
    await run.accepted(1)
    hold = run.hold("POST", _MESSAGES)
    await run.react()
    await hold.reached()


async def before_recording_the_reply(run: Killing) -> None:
    """The reply to a reaction stands in the channel, and the bot does not know which it is."""
    await run.accepted(1)
    hold = run.hold("POST", _MESSAGES, carried_out=True)
    await run.react()
    await hold.reached()


async def while_looking_for_the_message(run: Killing) -> None:
    """The bot was killed once, and now reads the channel to see whether it had answered."""
    await before_recording_the_answer(run)
    await run.kill()
    hold = run.hold("GET", _MESSAGES)
    await run.restart()
    await hold.reached(within=_PATIENCE)


async def while_running(run: Killing) -> None:
    """One job is being drawn, and others wait."""
    await run.accepted(3)
    await run.world.until(
        lambda: any(re.search(r"\d %", message.content) for message in run.answers()),
        within=_PATIENCE,
        what="progress",
    )


async def before_the_pictures(run: Killing) -> None:
    """The pictures are stored, and Discord has not got them."""
    hold = run.hold("PATCH", _MESSAGE, containing=WITH_PICTURES)
    await run.accepted(2)
    await hold.reached(within=_PATIENCE)


async def before_recording_the_delivery(run: Killing) -> None:
    """The pictures stand in the channel, and the bot does not know it."""
    hold = run.hold("PATCH", _MESSAGE, containing=WITH_PICTURES, carried_out=True)
    await run.accepted(2)
    await hold.reached(within=_PATIENCE)


async def before_the_new_message(run: Killing) -> None:
    """The answer never arrived, and the message in its place has not been posted yet."""
    await _unanswered(run, carried_out=False)


async def before_recording_the_new_message(run: Killing) -> None:
    """The answer never arrived; its stand-in has been posted, and the bot does not know it."""
    await _unanswered(run, carried_out=True)


async def _unanswered(run: Killing, *, carried_out: bool) -> None:
    refusal = run.refuse_next_answer()
    hold = run.hold("POST", _MESSAGES, carried_out=carried_out)
    await run.imagine()
    await run.world.until(lambda: refusal.hits, what="an answer")
    await hold.reached(within=_PATIENCE)


async def during_start_up(run: Killing) -> None:
    """The bot was killed once, and is on its way up with jobs from before."""
    await run.accepted(2)
    await run.kill()
    await run.bot.start()
    await asyncio.sleep(run.random.uniform(0, 6))


async def after_the_engine_died(run: Killing) -> None:
    """The engine alone was killed at its work; the bot began that again and answered everything."""
    await run.settle()
    await run.load()
    await run.world.until(
        lambda: run.jobs("status = 'running'"), within=_PATIENCE, what="a job that runs"
    )
    await asyncio.sleep(run.random.uniform(0, 0.5))
    if run.kill_engine():
        await run.settle()
        await run.accepted(2)


async def before_recording_the_removal(run: Killing) -> None:
    """Pictures were removed: the message is gone from the channel, and the bot does not know it."""
    await run.accepted(1)
    await run.settle()
    hold = run.hold("DELETE", _MESSAGE, carried_out=True)
    await run.remove_something()
    await hold.reached(within=_PATIENCE)


async def before_saying_that_it_is_cancelled(run: Killing) -> None:
    """A job was cancelled, and its message does not say so yet."""
    await run.settle()
    asked = await run.imagine(steps=_LONG)
    await asked.answered()
    hold = run.hold("PATCH", _MESSAGE, containing="cancelled ·")
    await run.remove_something(latest=True)
    await hold.reached(within=_PATIENCE)


async def at_random(run: Killing) -> None:
    """Any moment of the time that the orders of several people take together.

    What was before is through by then: the engine is loaded, and jobs do not pile up.
    """
    step_seconds = await run.step_seconds()
    await run.accepted(1)
    await run.settle()
    await asyncio.sleep(run.random.uniform(0, await run.load() * step_seconds))


# Every one that is led up to; `at_random` takes turns with them.
INSTANTS: Final[tuple[Instant, ...]] = (
    before_the_commit,
    before_the_answer,
    before_recording_the_answer,
    before_the_reply,
    before_recording_the_reply,
    while_looking_for_the_message,
    while_running,
    before_the_pictures,
    before_recording_the_delivery,
    before_the_new_message,
    before_recording_the_new_message,
    during_start_up,
    after_the_engine_died,
    before_recording_the_removal,
    before_saying_that_it_is_cancelled,
)
