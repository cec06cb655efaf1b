"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from generation.catalog.files import DownloadProgress
from generation.catalog.profile import ModelProfile

from .errors import USER_ERRORS
from .listing import ListedModel, locate_listed
from .terminal import SafeConsole, harmless, log_handler, shows

P = ParamSpec("P")

out: Final = SafeConsole(highlight=False, soft_wrap=True)
err: Final = SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def one_sentence(command: Callable[P, int]) -> Callable[P, int]:
    """Make a command print an expected error as one sentence and return 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except USER_ERRORS as error:
            complain(error)
            return 1

    return guarded


def complain(error: Exception) -> None:
    """Print the sentence of an error, or each of its sentences, on one line each."""
    for sentence in getattr(error, "sentences", (str(error),)):
        err.print("[bold red]error:[/]", end=" ")
        note(sentence)


def say(text: str) -> None:
    """Print one line of results on standard output; control characters become visible."""
    out.print(harmless(text, breaks=False), markup=False)


def note(text: str) -> None:
    """Print one line on standard error; control characters become visible."""
    err.print(harmless(text, breaks=False), markup=False)


def set_up_logging(level: str) -> None:
    """Log to standard error; libraries log only warnings and errors."""
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler(err)], force=True)
    for name in ("bot", "generation", "storage"):
        logging.getLogger(name).setLevel(level)
    # discord.py warns at every start about codecs that only voice needs.
    logging.getLogger("discord.client").setLevel("DEBUG" if level == "DEBUG" else "ERROR")
    # Python warnings of libraries are for their developers, not for an operator.
    logging.captureWarnings(capture=True)
    logging.getLogger("discord.client").addFilter(_without_trace)
    logging.getLogger("py.warnings").setLevel("DEBUG" if level == "DEBUG" else "ERROR")


def _without_trace(record: logging.LogRecord) -> bool:
    """Log a lost connection to Discord on one line; a traceback adds nothing."""
    if record.exc_info and record.msg == "Attempting a reconnect in %.2fs":
        record.msg = f"The connection to Discord was lost (%s). {record.msg}"
        record.args = (record.exc_info[1], *(record.args or ()))
        record.exc_info = None
    return True


@contextmanager
def progress(*columns: TextColumn | BarColumn | DownloadColumn) -> Iterator[Progress]:
    """Show progress on standard error inside the block."""
    shown = columns or (TextColumn("{task.completed}/{task.total} steps"),)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *shown,
        TimeRemainingColumn(),
        console=err,
        transient=True,
        # In a pipe or a log a bar would leave only blank lines.
        disable=not err.is_terminal,
    ) as bar:
        yield bar


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show `text` on a terminal inside the block."""
    if err.is_terminal:
        with err.status(escape(harmless(text)), spinner="dots" if shows(err, "⠋") else "line"):
            yield
    else:
        yield


def locate_model(listed: ListedModel) -> ModelProfile:
    """Return the profile of a model, showing progress if the model has to be downloaded.

    Raises:
        ModelError: the model cannot be found or used.
    """
    with progress(DownloadColumn()) as bar:
        task: TaskID | None = None

        def on_download(state: DownloadProgress) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(escape(harmless(f"Downloading {state.model}")))
            bar.update(task, completed=state.done, total=state.total)

        return locate_listed(listed, on_download=on_download)
