"""`imagine-bot backup` and `imagine-bot restore`: a copy that is whole, and the way back."""

from __future__ import annotations

from pathlib import Path

from storage.backup import Copied, back_up, restore
from storage.folder.permissions import private_files

from .. import console
from ..config import load_settings


@console.one_sentence
def back_up_folder(target: Path, *, config: Path | None, data: Path | None) -> int:
    """Copy the data folder to `target`; return 0 only if no picture was lost before."""
    source = load_settings(config, data=data).data
    with private_files():
        copied = back_up(source, target)
    console.out.print(
        f"{target} is a whole copy of {source}: the database and {copied.pictures:,} pictures, "
        f"{copied.added:,} of them new.",
        markup=False,
    )
    return _say_lost(copied, f"{source} holds no sound file of")


@console.one_sentence
def restore_folder(backup: Path, *, config: Path | None, data: Path | None, replace: bool) -> int:
    """Put a backup into the data folder; return 0 only if it has all of its pictures."""
    target = load_settings(config, data=data).data
    with private_files():
        copied = restore(backup, target, replace=replace)
    console.out.print(
        f"{target} is as {backup} has it: the database and {copied.pictures:,} pictures.",
        markup=False,
    )
    if copied.aside is not None:
        console.out.print(f"What was there before is in {copied.aside}.", markup=False)
    return _say_lost(copied, f"{backup} holds no sound file of")


def _say_lost(copied: Copied, where: str) -> int:
    if not copied.lost:
        return 0
    console.err.print(
        f"{where} {len(copied.lost):,} pictures that the database names, "
        f"{copied.lost[0][:12]} among them; look for them in an older backup.",
        markup=False,
    )
    return 1
