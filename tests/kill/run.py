"""A bot that serves people and is killed again and again."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random
from typing import Final, Self

from PIL import Image

from bot.ui.attachments import is_finished
from storage.folder.layout import DATABASE_NAME
from storage.sqlite.readonly import open_readonly

from ..rig import Asked, Discord, Fault, Hold, MessageView, NeverHappened
from ..running import imagine_bot
from . import engine

# Alice and Bob have already joined.
_JOINING: Final = ("carol", "dave", "erin")
_PEOPLE: Final = ("alice", "bob", *_JOINING)
_PROMPTS: Final = ("rabbit face", "red apple", "a grinning face on a blue background", "pizza")
_STEPS: Final = 4
# Mixed so that some jobs share a batch while others wait.
_LOAD_ORDERS: Final = (3, 6)
_LOAD_STEPS: Final = (4, 40)
_LOAD_COUNTS: Final = (1, 1, 2, 3, 4)
_LOAD_WAYS: Final = ("imagine", "imagine", "imagine", "vary", "react")
# The probability that somebody removes a job during a load.
_REMOVAL_CHANCE: Final = 0.5
_UNDONE: Final = """
    status IN ('queued', 'running', 'generated')
    OR (status = 'cancelled' AND NOT withdrawn AND NOT deleted)
    OR (deleted AND NOT message_removed AND message_id IS NOT NULL)
"""
_FINISH_SECONDS: Final = 300.0


class Killing:
    """One bot on one data folder; `asked` holds every command that was sent to it."""

    def __init__(
        self, world: Discord, data: Path, seed: int, step_seconds: float | None = None
    ) -> None:
        self.world = world
        self.data = data
        self.random = Random(seed)
        self.kills = 0
        self.asked: list[Asked] = []
        self.bot = imagine_bot(
            world,
            data,
            steps=_STEPS,
            progress_seconds=0.2,
            # Kills may come before the engine is loaded, so jobs pile up.
            queue_limit=1_000,
            member_limit=1_000,
        )
        self._holds: list[Hold] = []
        self._reacted: set[tuple[int, str]] = set()
        self._asked_by: dict[int, str] = {}
        self._step_seconds = step_seconds

    @classmethod
    @asynccontextmanager
    async def start(
        cls, data: Path, *, seed: int, step_seconds: float | None = None
    ) -> AsyncIterator[Self]:
        """Start the bot in its own simulated Discord; measure `step_seconds` if None."""
        async with Discord.start() as world:
            for name in _JOINING:
                world.join(name)
            killing = cls(world, data, seed, step_seconds)
            async with killing.bot:
                await killing.bot.ready()
                yield killing

    async def imagine(self, **options: object) -> Asked:
        """Let somebody run /imagine for one or two pictures."""
        prompt = self.random.choice(_PROMPTS)
        return await self._ask("imagine", prompt=prompt, count=self._count(), **options)

    async def vary(self) -> Asked:
        """Let somebody run /vary with an uploaded picture."""
        picture = Image.new("RGB", (96, 96), (self.random.randrange(256), 120, 40))
        file = io.BytesIO()
        picture.save(file, "PNG")
        attachment = ("mine.png", file.getvalue())
        return await self._ask("vary", prompt=self.random.choice(_PROMPTS), attachment=attachment)

    async def react(self) -> None:
        """Let somebody react with 🔁 to a message of the bot, at most once each."""
        pairs = [
            (message.id, who)
            for message in self.answers()
            for who in _PEOPLE
            if (message.id, who) not in self._reacted
        ]
        message_id, who = self.random.choice(pairs)
        self._reacted.add((message_id, who))
        await self.world.react(message_id, "🔁", who=who)

    async def request_something(self) -> None:
        """Let somebody request pictures in one of the three ways."""
        ways: list[Callable[[], Awaitable[object]]] = [self.imagine, self.imagine, self.vary]
        if self.answers():
            ways.append(self.react)
        await self.random.choice(ways)()

    async def load(self) -> int:
        """Let several people request different pictures at once; return about how many steps.

        At times somebody also removes one of their jobs.
        """
        steps = 0
        for who in self.random.choices(_PEOPLE, k=self.random.randint(*_LOAD_ORDERS)):
            way = self.random.choice(_LOAD_WAYS)
            if way == "vary":
                await self.vary()
            elif way == "react" and self.answers():
                await self.react()
            else:
                one, count = self.random.randint(*_LOAD_STEPS), self.random.choice(_LOAD_COUNTS)
                prompt = self.random.choice(_PROMPTS)
                await self._ask("imagine", who=who, prompt=prompt, steps=one, count=count)
                steps += one * count
                continue
            steps += _STEPS
        if self.random.random() < _REMOVAL_CHANCE:
            await self.remove_something()
        return steps

    async def remove_something(self, *, latest: bool = False) -> None:
        """Let somebody press ❌ on one of their messages, or on the latest one."""
        with suppress(NeverHappened):
            await self.world.until(
                lambda: _removable(self.asked[-1].message), within=10, what="an answer with ❌"
            )
        theirs = [
            (message.id, self._asked_by[asked.record.id])
            for asked in self.asked
            if (message := asked.message) is not None and _removable(message)
        ]
        if theirs:
            latest = latest or self.random.random() < _REMOVAL_CHANCE
            message_id, who = theirs[-1] if latest else self.random.choice(theirs)
            asked = await self.world.click(message_id, "❌", who=who)
            # For finished pictures the bot asks for a confirmation.
            with suppress(NeverHappened):
                await self.world.until(
                    lambda: asked.followups or not _has_pictures(self.world, message_id),
                    within=2,
                    what="a question or no pictures",
                )
            for question in asked.followups:
                if question.buttons:
                    await self.world.click(question, "Delete", who=who)

    async def step_seconds(self) -> float:
        """Return how long a load takes for each step of its pictures.

        The first call measures one load without a kill, from the commands to the last delivery.
        """
        if self._step_seconds is None:
            await self.accepted(1)
            await self.settle()
            before, start = len(self.asked), time.monotonic()
            steps = await self.load()
            for asked in self.asked[before:]:
                await asked.answered(within=10)
            await self.settle()
            self._step_seconds = (time.monotonic() - start) / steps
        return self._step_seconds

    async def accepted(self, count: int) -> None:
        """Run /imagine `count` times and wait until each command is answered."""
        for asked in [await self.imagine() for _ in range(count)]:
            await asked.answered(within=10)

    def answers(self) -> list[MessageView]:
        """Return the messages of the bot, without ephemeral ones."""
        return [message for message in self.world.messages() if message.author == "TestBot"]

    def hold(
        self, method: str, path: str, *, carried_out: bool = False, containing: str = ""
    ) -> Hold:
        """Hold the next matching request until after the kill."""
        hold = self.world.hold(method, path, carried_out=carried_out, containing=containing)
        self._holds.append(hold)
        return hold

    def refuse_next_answer(self) -> Fault:
        """Let Discord answer 404 to the next interaction callback."""
        return self.world.fault("POST", "/interactions/*/callback", status=404)

    async def go_through(self, instant: Callable[[Self], Awaitable[None]]) -> None:
        """Request something, bring the bot to an instant, kill it there, and restart it."""
        await self.request_something()
        await instant(self)
        await self.kill()
        await self.restart()

    async def kill(self) -> None:
        """Kill the bot now; requests that are still on hold are never carried out."""
        self.bot.kill()
        await self.bot.wait()
        await self.world.until(lambda: not self.world.gateway.connected, what="a cut connection")
        for hold in self._holds:
            hold.release()
        self._holds.clear()
        self.kills += 1

    async def restart(self) -> None:
        """Start the bot again and wait until it is ready."""
        await self.bot.start()
        await self.bot.ready()

    def kill_engine(self) -> bool:
        """Kill the process of the engine; return False if this system cannot find it.

        Raises:
            NeverHappened: the bot has no engine.
        """
        if not engine.can_be_found():
            return False
        process = engine.engine_of(self.bot.pid)
        if process is None:
            raise NeverHappened("an engine of the bot", 0)
        os.kill(process, signal.SIGKILL)
        return True

    async def settle(self) -> None:
        """Wait until the bot has finished and reported every job.

        Raises:
            NeverHappened: a job does not end.
            BotExited: the bot ended.
        """
        try:
            async with asyncio.timeout(_FINISH_SECONDS):
                while jobs := self.jobs(_UNDONE):
                    self.bot.check()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            error = NeverHappened(f"the end of the jobs {jobs}", _FINISH_SECONDS)
            error.add_note(f"the bot wrote:\n{self.bot.last_words()}")
            raise error from None

    async def finish(self) -> None:
        """Wait until no job is left, and stop the bot as an operator does.

        Raises:
            NeverHappened: a job does not end.
        """
        await self.settle()
        self.bot.terminate()
        if code := await self.bot.wait():
            raise RuntimeError(f"the bot ended with {code}:\n{self.bot.last_words()}")

    def jobs(self, condition: str) -> list[int]:
        """Return the ids of the jobs that match a condition."""
        with closing(open_readonly(self.data / DATABASE_NAME)) as db:
            rows: Iterable[tuple[int]] = db.execute(
                f"SELECT id FROM jobs WHERE {condition}"
            ).fetchall()
        return [job_id for (job_id,) in rows]

    def _count(self) -> int:
        return self.random.choice((1, 1, 2))

    async def _ask(self, command: str, *, who: str | None = None, **options: object) -> Asked:
        who = who or self.random.choice(_PEOPLE)
        seed = self.random.randrange(2**32)
        asked = await self.world.slash(command, who=who, seed=seed, **options)
        self._asked_by[asked.record.id] = who
        self.asked.append(asked)
        return asked


def _has_pictures(world: Discord, message_id: int) -> bool:
    message = next((seen for seen in world.messages() if seen.id == message_id), None)
    return message is not None and is_finished(file.name for file in message.attachments)


def _removable(message: MessageView | None) -> bool:
    return message is not None and any("❌" in button.names for button in message.buttons)
