"""The instants at which a kill does most harm: each function brings the bot to one and returns."""

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
# In seconds; the bot may have just started, and the engine takes a while to load.
_TIMEOUT: Final = 90.0
# So many steps take longer than a click on a button.
_LONG: Final = 150


async def before_the_commit(run: Killing) -> None:
    """The command was received, and its attachment is still being fetched."""
    hold = run.hold("GET", "/cdn/*")
    await run.vary()
    await hold.reached()


async def before_the_answer(run: Killing) -> None:
    """The job is committed, and the command is not answered."""
    hold = run.hold("POST", _CALLBACK)
    await run.imagine()
    await hold.reached()


async def before_recording_the_answer(run: Killing) -> None:
    """The answer is posted, and its message id is not recorded."""
    hold = run.hold("POST", _CALLBACK, carried_out=True)
    await run.imagine()
    await hold.reached()


async def before_the_reply(run: Killing) -> None:
    """A job from a reaction is committed, and no reply is posted."""
    await run.accepted(1)
    hold = run.hold("POST", _MESSAGES)
    await run.react()
    await hold.reached()


async def before_recording_the_reply(run: Killing) -> None:
    """The reply to a reaction is posted, and its message id is not recorded."""
    await run.accepted(1)
    hold = run.hold("POST", _MESSAGES, carried_out=True)
    await run.react()
    await hold.reached()


async def while_looking_for_the_message(run: Killing) -> None:
    """After a first kill the bot reads the channel to find the answer that it has posted."""
    await before_recording_the_answer(run)
    await run.kill()
    hold = run.hold("GET", _MESSAGES)
    await run.restart()
    await hold.reached(within=_TIMEOUT)


async def while_running(run: Killing) -> None:
    """One job is running, and others wait."""
    await run.accepted(3)
    await run.world.until(
        lambda: any(re.search(r"\d %", message.content) for message in run.answers()),
        within=_TIMEOUT,
        what="progress",
    )


async def before_the_pictures(run: Killing) -> None:
    """The pictures are stored, and not sent."""
    hold = run.hold("PATCH", _MESSAGE, containing=WITH_PICTURES)
    await run.accepted(2)
    await hold.reached(within=_TIMEOUT)


async def before_recording_the_delivery(run: Killing) -> None:
    """The pictures are sent, and the delivery is not recorded."""
    hold = run.hold("PATCH", _MESSAGE, containing=WITH_PICTURES, carried_out=True)
    await run.accepted(2)
    await hold.reached(within=_TIMEOUT)


async def before_the_new_message(run: Killing) -> None:
    """Discord refused the answer, and the message in its place is not posted."""
    await _unanswered(run, carried_out=False)


async def before_recording_the_new_message(run: Killing) -> None:
    """Discord refused the answer; the message in its place is posted, and not recorded."""
    await _unanswered(run, carried_out=True)


async def _unanswered(run: Killing, *, carried_out: bool) -> None:
    refusal = run.refuse_next_answer()
    hold = run.hold("POST", _MESSAGES, carried_out=carried_out)
    await run.imagine()
    await run.world.until(lambda: refusal.hits, what="an answer")
    await hold.reached(within=_TIMEOUT)


async def during_start_up(run: Killing) -> None:
    """After a first kill the bot is starting with unfinished jobs."""
    await run.accepted(2)
    await run.kill()
    await run.bot.start()
    await asyncio.sleep(run.random.uniform(0, 6))


async def after_the_engine_died(run: Killing) -> None:
    """The engine alone was killed; the bot restarted the job and answered all commands."""
    await run.settle()
    await run.load()
    await run.world.until(
        lambda: run.jobs("status = 'running'"), within=_TIMEOUT, what="a job that runs"
    )
    await asyncio.sleep(run.random.uniform(0, 0.5))
    if run.kill_engine():
        await run.settle()
        await run.accepted(2)


async def before_recording_the_removal(run: Killing) -> None:
    """A message with pictures was removed on Discord, and the removal is not recorded."""
    await run.accepted(1)
    await run.settle()
    hold = run.hold("DELETE", _MESSAGE, carried_out=True)
    await run.remove_something()
    await hold.reached(within=_TIMEOUT)


async def before_reporting_the_cancellation(run: Killing) -> None:
    """A job was cancelled, and its message does not show that yet."""
    await run.settle()
    asked = await run.imagine(steps=_LONG)
    await asked.answered()
    hold = run.hold("PATCH", _MESSAGE, containing="cancelled ·")
    await run.remove_something(latest=True)
    await hold.reached(within=_TIMEOUT)


async def at_random(run: Killing) -> None:
    """A random moment while the bot works on the commands of several people.

    All earlier jobs are finished first, so the engine is loaded and jobs do not pile up.
    """
    step_seconds = await run.step_seconds()
    await run.accepted(1)
    await run.settle()
    await asyncio.sleep(run.random.uniform(0, await run.load() * step_seconds))


# All chosen instants; a random moment comes before each of them.
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
    before_reporting_the_cancellation,
)
