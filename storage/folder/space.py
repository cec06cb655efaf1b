"""The free space on the disk that holds the data folder."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import DiskFull, from_os_error


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on the disk that holds `folder`.

    Raises:
        FolderUnusable: the file system does not answer.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise from_os_error(folder, error) from error


@dataclass(frozen=True, slots=True)
class Space:
    """The disk that holds `folder`; `reserve` bytes are kept free for accepted jobs."""

    folder: Path
    reserve: int

    def check(self) -> None:
        """Return if new jobs may be accepted; block on the disk meanwhile.

        Raises:
            DiskFull: fewer bytes are free than the reserve.
            FolderUnusable: the folder cannot be written.
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
