"""Output to a terminal or a log: text from strangers must not control either."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable
from typing import IO, Any, Final

from rich.console import Console
from rich.logging import RichHandler

from .errors import BotError

_BREAKS: Final = frozenset("\n\t")
# Scripts and emoji need these two. They change only the letters beside them.
_JOINERS: Final = frozenset("\u200c\u200d")
# Control and format characters, lone surrogates, and unusual line separators.
_ACTIVE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
_INTERRUPTED: Final = 128 + signal.SIGINT
# The errors of writing to an open file.
_OUTPUT: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF, errno.ENXIO}
)
_STREAMS: Final = (0, 1, 2)


class OutputLost(BotError):
    """Nothing can be written to standard output or standard error any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"The output cannot be written ({error.strerror or error}); make room there, or "
            "redirect it."
        )
        self.error = error


def harmless(text: str, *, breaks: bool = True) -> str:
    r"""Return `text` with its invisible active characters escaped, such as `\x1b`.

    Active are control characters, direction marks and other format characters, and line
    separators. Line breaks and tabs stay, unless `breaks` is false.
    """
    if _PLAIN.fullmatch(text):
        return text
    kept = _JOINERS | _BREAKS if breaks else _JOINERS
    return "".join(
        character if character in kept or not _acts(character) else _visible(character)
        for character in text
    )


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTIVE


def _visible(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class SafeConsole(Console):
    """Prints text with no escape codes except its own; a failed write is one sentence."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich` does, with `harmless` applied to every text.

        Raises:
            OutputLost: the output cannot be written.
        """
        shown = [harmless(thing) if isinstance(thing, str) else thing for thing in objects]
        try:
            super().print(*shown, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error) from error

    def on_broken_pipe(self) -> None:
        """Write nothing more; a broken pipe on standard output ends the command silently."""
        self.quiet = True
        if self.stderr:
            # The bot must not stop because nobody reads its log.
            return
        to_nowhere(sys.stdout)
        raise SystemExit(_BROKEN_PIPE)


class SafeFormatter(logging.Formatter):
    """Formats a record as one line, followed by the lines of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with `harmless` applied."""
        record.message = harmless(record.getMessage(), breaks=False)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines.append(harmless(self.formatException(record.exc_info)))
        if record.stack_info:
            lines.append(harmless(self.formatStack(record.stack_info)))
        return "\n".join(lines)


def log_handler(console: Console) -> logging.Handler:
    """Return a handler that prints the log of this process on `console`."""
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    handler.setFormatter(SafeFormatter("%(message)s"))
    return handler


def prepare_streams() -> None:
    """Escape characters that the encoding lacks, and open a missing stream as /dev/null."""
    for number in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next opened file, such as the database, would get this number.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def exit_code(program: Callable[[], object]) -> int:
    """Run `program` and return its exit code; report a failed write of its output.

    A closed pipe, as with `| head`, ends the program silently.
    """
    try:
        code = _run(program)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT:
            raise
        code = _BROKEN_PIPE if error.errno == errno.EPIPE else _report_lost_output(error)
        to_nowhere(sys.stdout)
        to_nowhere(sys.stderr)
    return code


def _run(program: Callable[[], object]) -> int:
    try:
        program()
    except OutputLost as error:
        return _report_lost_output(error.error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _report_lost_output(error: OSError) -> int:
    # Standard error itself may fail.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {OutputLost(error)}\n")
        sys.stderr.flush()
    return 1


def to_nowhere(stream: IO[str] | None) -> None:
    """Redirect `stream` to /dev/null, so that the exit does not fail on unwritten output."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def shows(console: Console, text: str) -> bool:
    """Return whether the encoding of `console` has every character of `text`."""
    try:
        text.encode(console.encoding)
    except (UnicodeError, LookupError):
        return False
    return True
