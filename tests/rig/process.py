"""The bot's process: started, watched, stopped and killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .control import Discord
from .errors import BotExited, RigError

_REDIRECT: Final = Path(__file__).parent / "redirect"
_LAST_WORDS: Final = 4_000


class BotProcess:
    """A bot in a process of its own, sent to the rig; leaving the block kills what is left."""

    def __init__(
        self,
        command: Sequence[str],
        world: Discord,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._command = [_executable(command[0]), *command[1:]]
        self._world = world
        self.env = {**_environment(world), **(env or {})}
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._written = bytearray()
        self._identified = 0
        self._expected_to_end = False

    async def __aenter__(self) -> Self:
        await self.start()
        self._world.watch(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._world.unwatch(self)
        self.kill()
        await self.wait()
        if error is not None and not isinstance(error, RigError):
            error.add_note(f"the bot wrote:\n{self.last_words()}")

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def output(self) -> str:
        """All that it has written to stdout and stderr, over all starts."""
        return self._written.decode(errors="replace")

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        return self.output[-_LAST_WORDS:]

    async def start(self) -> None:
        """Start the process, the first time or again."""
        if self.running:
            raise RuntimeError("the bot is running already")
        self._identified = self._world.gateway.identified
        self._expected_to_end = False
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.env,
            cwd=self._cwd,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read())

    async def ready(self, *, within: float = 120.0) -> None:
        """Wait until this start of the bot has identified and Discord knows its commands.

        The bot identifies once it has loaded its model.

        Raises:
            NeverHappened: it did not within the time.
            BotExited: it ended instead.
        """
        await self._world.until(
            lambda: (
                self._world.gateway.identified > self._identified
                and self._world.gateway.connected
                and self._world.commands()
            ),
            within=within,
            what="the bot's arrival",
        )

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send SIGTERM (or SIGINT) to the bot alone, as a service manager or an operator does."""
        self._expected_to_end = True
        if self.running:
            self._started().send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to the bot and everything that it started."""
        self._expected_to_end = True
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self, *, within: float = 30.0) -> int:
        """Wait until the process has ended and return its exit code, minus a signal's number.

        Raises:
            TimeoutError: it lives on.
        """
        self._expected_to_end = True
        async with asyncio.timeout(within):
            code = await self._started().wait()
            if self._reader is not None:
                await self._reader
        return code

    def check(self) -> None:
        """Raise `BotExited` if the process ended and nobody had asked it to."""
        code = None if self._process is None else self._process.returncode
        if code is not None and not self._expected_to_end:
            error = BotExited(code)
            error.add_note(f"it wrote:\n{self.last_words()}")
            raise error

    async def _read(self) -> None:
        stream = self._started().stdout
        while stream is not None and (chunk := await stream.read(65_536)):
            self._written += chunk

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the bot was never started")
        return self._process


def _executable(name: str) -> str:
    """Return the path of a program, first of all one installed beside this Python."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def _environment(world: Discord) -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "DISCORD_TOKEN": world.token,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_REDIRECT), inherited])),
        "PYTHONUNBUFFERED": "1",
        "RIG_URL": world.url,
    }
