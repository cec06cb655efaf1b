"""The training commands on the small album, for processes of their own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from generation.starter import train as commands
from generation.starter.training.learning.trainer import Settings, train

from .album import TINY, album


def trained(task: Any, settings: Settings, folder: Path, **more: Any) -> None:
    """Train, and leave in `folder` a hash of what the weights of this process came to."""
    train(task, settings, folder, **more)
    found = hashlib.sha256()
    for value in task.network.state_dict().values():
        found.update(value.numpy().tobytes())
    (folder / f"weights-{os.environ.get('RANK', '0')}.sha256").write_text(found.hexdigest())


def main() -> None:
    """Run the command that the arguments say."""
    commands.fetch_sources = lambda _: None
    commands.open_album = lambda *_: album()
    commands.Shape = lambda: TINY  # type: ignore[assignment, misc]
    commands.run_training = trained
    commands.app()


if __name__ == "__main__":
    main()
