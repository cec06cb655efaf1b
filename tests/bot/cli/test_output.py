"""Files in folders that others may write to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bot.cli.output import open_folder
from bot.errors import BotError

PICTURE = b"a picture"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that an attacker would like to have overwritten."""
    file = tmp_path / "victim"
    file.write_bytes(b"precious")
    return file


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def write(folder: Path, data: bytes = PICTURE) -> Path:
    with open_folder(folder) as opened:
        return opened.write("owl.png", data)


def test_a_planted_link_is_neither_followed_nor_removed(shared: Path, victim: Path) -> None:
    for name in ("owl.png", ".owl.png.unfinished"):
        (shared / name).symlink_to(victim)
    written = write(shared)
    assert victim.read_bytes() == b"precious"
    assert (written.name, written.read_bytes()) == ("owl-2.png", PICTURE)
    assert (shared / "owl.png").readlink() == victim


def test_a_link_to_nothing_is_not_followed_either(shared: Path, tmp_path: Path) -> None:
    (shared / "owl.png").symlink_to(tmp_path / "new")
    assert write(shared).name == "owl-2.png"
    assert not (tmp_path / "new").exists()


def test_a_link_to_the_same_bytes_does_not_count_as_written(shared: Path, victim: Path) -> None:
    victim.write_bytes(PICTURE)
    (shared / "owl.png").symlink_to(victim)
    assert write(shared).name == "owl-2.png"


def test_a_pipe_a_folder_and_another_file_of_that_name_stay_as_they_are(shared: Path) -> None:
    os.mkfifo(shared / "owl.png")
    (shared / "owl-2.png").mkdir()
    (shared / "owl-3.png").write_bytes(b"an owl")
    assert write(shared).name == "owl-4.png"
    assert (shared / "owl-3.png").read_bytes() == b"an owl"


def test_the_same_picture_is_written_once(shared: Path) -> None:
    assert write(shared) == write(shared)
    assert [file.name for file in shared.iterdir()] == ["owl.png"]


def test_a_folder_that_is_exchanged_meanwhile_gets_nothing(shared: Path, tmp_path: Path) -> None:
    with open_folder(shared) as opened:
        shared.rename(tmp_path / "ours")
        (tmp_path / "theirs").mkdir()
        shared.symlink_to(tmp_path / "theirs")
        opened.write("owl.png", PICTURE)
    assert list((tmp_path / "theirs").iterdir()) == []
    assert (tmp_path / "ours" / "owl.png").read_bytes() == PICTURE


def test_a_folder_behind_an_own_link_is_used_and_one_behind_a_foreign_link_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(shared)
    assert write(link / "new").exists()
    # A link that somebody else made, seen from here: the user is another.
    nobody = os.lstat(link).st_uid + 12345
    if os.geteuid() == 0:
        os.chown(link, nobody, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: nobody)
    with pytest.raises(BotError, match="is a link that another user made; name another folder"):
        write(link / "new")


def test_where_there_are_no_hard_links_a_file_is_renamed_and_nothing_overwritten(
    shared: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    (shared / "owl.png").symlink_to(victim)
    assert write(shared).name == "owl-2.png"
    assert victim.read_bytes() == b"precious"
    assert sorted(file.name for file in shared.iterdir()) == ["owl-2.png", "owl.png"]
