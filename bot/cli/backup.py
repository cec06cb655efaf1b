"""`imagine-bot backup` and `imagine-bot restore`."""

from __future__ import annotations

from pathlib import Path

from storage.backup.copying import Copied
from storage.backup.create import back_up
from storage.backup.restore import restore
from storage.folder.permissions import private_files

from .. import console
from ..config import load_settings


@console.one_sentence
def back_up_folder(target: Path, *, config: Path | None, data: Path | None) -> int:
    """Copy the data folder to `target`; return 0 only if no picture is missing."""
    source = load_settings(config, data=data).data
    with private_files():
        copied = back_up(source, target)
    console.out.print(
        f"{target} is a complete copy of {source}: the database and {copied.pictures:,} pictures, "
        f"{copied.added:,} of them new.",
        markup=False,
    )
    return _report_missing(copied, source)


@console.one_sentence
def restore_folder(backup: Path, *, config: Path | None, data: Path | None, replace: bool) -> int:
    """Put a backup into the data folder; return 0 only if no picture is missing."""
    target = load_settings(config, data=data).data
    with private_files():
        copied = restore(backup, target, replace=replace)
    console.out.print(
        f"{target} is restored from {backup}: the database and {copied.pictures:,} pictures.",
        markup=False,
    )
    if copied.aside is not None:
        console.out.print(f"The earlier data is in {copied.aside}.", markup=False)
    return _report_missing(copied, backup)


def _report_missing(copied: Copied, folder: Path) -> int:
    if not copied.lost:
        return 0
    console.err.print(
        f"{folder} has no intact file of {len(copied.lost):,} pictures, such as "
        f"{copied.lost[0][:12]}; look for them in an older backup.",
        markup=False,
    )
    return 1
