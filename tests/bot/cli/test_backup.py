"""`imagine-bot backup` and `imagine-bot restore`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from storage.opening import open_storage

from .shell import Shell, imagine_bot


def test_a_backup_is_made_and_restored_with_a_sentence_each(shell: Shell, tmp_path: Path) -> None:
    async def fill() -> None:
        async with open_storage(tmp_path / "data"):
            pass

    asyncio.run(fill())
    made = imagine_bot("backup", "copy", cwd=tmp_path)
    assert made.stdout == (
        "copy is a complete copy of data: the database and 0 pictures, 0 of them new.\n"
    )
    refused = shell("restore", "copy")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "use --replace to move them into a folder" in refused.stderr
    done = shell("restore", "copy", "--replace")
    assert done.exit_code == 0
    assert "data is restored from copy: the database and 0 pictures." in done.stdout
    assert "The earlier data is in " in done.stdout
    assert shell("backup", "data").exit_code == 1
    assert shell("restore", "nowhere").exit_code == 1
