"""`imagine-bot demo` as a process of its own, as a person starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

_LIFETIME_SECONDS = 240.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bot", "demo", *arguments]


def environment(temporary: Path) -> dict[str, str]:
    """Return an environment without a browser, with temporary folders of its own."""
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "BROWSER": "none", "TMPDIR": str(temporary)}


class DemoProcess:
    """A running demo; `url` is the address that it printed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder / "tmp"
        self.errors = folder / "stderr"

    def __enter__(self) -> Self:
        with self.errors.open("w") as errors:
            self._process = subprocess.Popen(
                command(),
                cwd=self._folder,
                env=environment(self._temporary),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        # One that hangs must not hang the tests.
        self._guard = threading.Timer(_LIFETIME_SECONDS, self._process.kill)
        self._guard.start()
        assert self._process.stdout is not None
        self._lines: list[str] = []
        for line in self._process.stdout:
            self._lines.append(line)
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                return self
        self.__exit__()
        raise AssertionError(f"no address was printed: {self._lines} {self.errors.read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._guard.cancel()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        assert self._process.stdout is not None
        self._lines.extend(self._process.stdout)
        return self._process.wait()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def left_behind(self) -> list[Path]:
        """Return the temporary folders of ours that are still there; torch keeps one of its own."""
        return list(self._temporary.glob("imagine-bot-*"))
