"""Opens a database read-only, also while a bot uses it: no file is written, created or locked."""

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
from . import migrator
from .threads import translated

BUSY_SECONDS: Final = 5.0


@contextlib.contextmanager
def opened_readonly(path: Path) -> Iterator[sqlite_utils.Database]:
    """Yield the database at `path`, of any version of the schema.

    Raises:
        DatabaseUnusable: the database does not exist, cannot be read, or is not the bot's.
    """
    with translated(path), contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(_connect(path, stack)))
        db = sqlite_utils.Database(connection, execute_plugins=False)
        migrator.refuse_foreign(path, db)
        yield db


def open_readonly(path: Path) -> sqlite_utils.Database:
    """Return the database at `path`, of this version of the schema.

    The caller closes the database, and uses it only in the calling thread.

    Raises:
        DatabaseUnusable: the database does not exist, cannot be read, or has another version.
    """
    with translated(path), contextlib.ExitStack() as stack:
        connection = _connect(path, stack)
        try:
            db = sqlite_utils.Database(connection, execute_plugins=False)
            migrator.require_current(path, db)
        except BaseException:
            connection.close()
            raise
    return db


def _connect(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    """Return a connection that creates no files beside the database.

    SQLite's `mode=ro` creates the shared memory file if it does not exist, and leaves it there.
    Without a write-ahead log nobody has the database open, so it is read as immutable. A log
    without shared memory, such as in an incomplete copy, is read in a temporary copy.
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
