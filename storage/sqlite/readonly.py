"""Opening a database only to look: nothing is written, made or locked against a running bot."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlite_utils

from ..errors import DatabaseUnusable, from_os_error
from . import migrations
from .threads import translated

BUSY_SECONDS: Final = 5.0


@contextlib.contextmanager
def looking(path: Path) -> Iterator[sqlite_utils.Database]:
    """Yield the database at `path`, of whatever version, and leave every file as it was.

    Raises:
        DatabaseUnusable: there is none, it cannot be read, or another program made it.
    """
    with translated(path), contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(_connect(path, stack)))
        db = sqlite_utils.Database(connection, execute_plugins=False)
        migrations.refuse_foreign(path, db)
        yield db


def open_readonly(path: Path) -> sqlite_utils.Database:
    """Return the database at `path` for reading, also while a bot works on it.

    The caller closes it, and uses it in the thread that called this.

    Raises:
        DatabaseUnusable: there is none, it cannot be read, or its version is another.
    """
    with translated(path), contextlib.ExitStack() as stack:
        connection = _connect(path, stack)
        try:
            db = sqlite_utils.Database(connection, execute_plugins=False)
            migrations.require_current(path, db)
        except BaseException:
            connection.close()
            raise
    return db


def _connect(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    """Return a connection that makes no file beside the database.

    SQLite's own `mode=ro` makes the file of shared memory where there is none, and leaves it.
    Without a write-ahead log nobody has the database open, so it can be read as one that does
    not change. A log without shared memory, as an incomplete copy has it, is read in a copy.
    """
    try:
        if not path.exists():
            raise DatabaseUnusable(
                path, "does not exist; start the bot once, or name its folder with --data"
            )
        log, memory = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))
        if not log.exists():
            mode = "immutable=1"
        elif memory.exists():
            mode = "mode=ro"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="imagine-bot-"))
            shutil.copyfile(log, Path(folder) / log.name)
            path, mode = Path(shutil.copyfile(path, Path(folder) / path.name)), "mode=rw"
    except OSError as error:
        raise from_os_error(path, error) from error
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
