"""What the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from generation.locate import ModelProfile, locate
from generation.model_files import DownloadProgress

from .errors import USER_ERRORS

P = ParamSpec("P")

out: Final = Console(highlight=False, soft_wrap=True)
err: Final = Console(stderr=True, highlight=False, soft_wrap=True)


def one_sentence(command: Callable[P, int]) -> Callable[P, int]:
    """Make a command print a foreseen error as one sentence and return 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except USER_ERRORS as error:
            complain(error)
            return 1

    return guarded


def complain(error: Exception) -> None:
    """Print the sentence of an error."""
    err.print(f"[bold red]error:[/] {_plain(str(error))}")


def _plain(text: str) -> str:
    """Return `text` with rich's markup made harmless."""
    return text.replace("[", r"\[")


def set_up_logging(level: str) -> None:
    """Log to standard error; libraries speak only when something is wrong."""
    handler = RichHandler(console=err, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for name in ("bot", "generation", "storage"):
        logging.getLogger(name).setLevel(level)
    # It warns at every start of codecs that only voice needs.
    logging.getLogger("discord.client").setLevel("DEBUG" if level == "DEBUG" else "ERROR")
    # Warnings of libraries tell their developers, not an operator.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel("DEBUG" if level == "DEBUG" else "ERROR")


@contextmanager
def progress(*columns: TextColumn | BarColumn | DownloadColumn) -> Iterator[Progress]:
    """Show progress on standard error while inside."""
    shown = columns or (TextColumn("{task.completed}/{task.total} steps"),)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *shown,
        TimeRemainingColumn(),
        console=err,
        transient=True,
        # In a pipe or a log it would leave blank lines and no progress.
        disable=not err.is_terminal,
    ) as bar:
        yield bar


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say on a terminal what is going on while inside."""
    if err.is_terminal:
        with err.status(text):
            yield
    else:
        yield


def locate_model(name: str) -> ModelProfile:
    """Return the model `name`, showing progress if it has to be downloaded.

    Raises:
        ModelError: it cannot be found or used.
    """
    with progress(DownloadColumn()) as bar:
        task: TaskID | None = None

        def on_download(state: DownloadProgress) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(f"Downloading {name}")
            bar.update(task, completed=state.done, total=state.total)

        return locate(name, on_download=on_download)
