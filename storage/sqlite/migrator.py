"""Applies the numbered steps of the schema, and refuses a database that this version cannot use."""

from __future__ import annotations

from pathlib import Path

import sqlite_utils
from sqlite_utils.migrations import Migrations

from ..errors import DatabaseUnusable
from .migrations import STEPS


def migrations() -> Migrations:
    """Return the steps as sqlite-utils knows them, under the name of this program."""
    steps = Migrations("imagine-bot")
    for step in STEPS:
        steps()(step)
    return steps


def apply(path: Path, db: sqlite_utils.Database) -> None:
    """Take the steps that the database at `path` still lacks, each in a transaction of its own."""
    refuse_foreign(path, db)
    migrations().apply(db)


def refuse_foreign(path: Path, db: sqlite_utils.Database) -> None:
    """Check, without a write, that this program may work on the database.

    Raises:
        DatabaseUnusable: a newer version or another program made it.
    """
    applied = _applied(db)
    if applied - {step.__name__ for step in STEPS}:
        raise DatabaseUnusable(
            path,
            "was made by a newer Imagine Bot; update this one or choose another folder with --data",
        )
    if not applied and set(db.table_names()) - {Migrations.migrations_table, "sqlite_sequence"}:
        raise DatabaseUnusable(
            path, "belongs to another program; choose another folder with --data"
        )


def require_current(path: Path, db: sqlite_utils.Database) -> None:
    """Check, without a write, that the database has this version's schema.

    Raises:
        DatabaseUnusable: a newer or an older version or another program made it.
    """
    refuse_foreign(path, db)
    if len(_applied(db)) < len(STEPS):
        raise DatabaseUnusable(
            path, "was made by an older Imagine Bot; start the bot once to bring it up to date"
        )


def _applied(db: sqlite_utils.Database) -> set[str]:
    return {migration.name for migration in migrations().applied(db)}
