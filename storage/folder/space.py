"""How much room there is for what comes."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import DiskFull, from_os_error


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be written on the disk that holds `folder`.

    Raises:
        FolderUnusable: it cannot be asked.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise from_os_error(folder, error) from error


@dataclass(frozen=True, slots=True)
class Space:
    """The disk that holds `folder`, of which `reserve` bytes are kept for what was accepted."""

    folder: Path
    reserve: int

    def check(self) -> None:
        """Return only if more can be accepted; it blocks on the disk.

        Raises:
            DiskFull: fewer bytes are free than the reserve.
            FolderUnusable: the folder cannot be asked, or nothing can be written there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(self.folder, error) from error
        free = free_bytes(self.folder)
        if free < self.reserve:
            raise DiskFull(self.folder, free)
        try:
            with tempfile.TemporaryFile(dir=self.folder, buffering=0) as file:
                file.write(b"\0")
        except OSError as error:
            raise from_os_error(self.folder, error) from error
