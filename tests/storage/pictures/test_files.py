from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from storage.errors import DiskFull, FolderUnusable, PictureDamaged, PictureMissing
from storage.pictures.files import PictureFiles
from storage.pictures.plain_png import decode_png, encode_png

from ..conftest import ReadOnly
from ..samples import pixels


@pytest.fixture
def pictures(tmp_path: Path) -> PictureFiles:
    return PictureFiles(tmp_path / "pictures")


def all_files(pictures: PictureFiles) -> list[Path]:
    return [path for path in pictures.folder.rglob("*") if path.is_file()]


def test_a_picture_is_named_by_the_hash_of_its_bytes(pictures: PictureFiles) -> None:
    sha256 = pictures.write(b"picture")
    assert sha256 == hashlib.sha256(b"picture").hexdigest()
    assert pictures.path(sha256) == pictures.folder / sha256[:2] / f"{sha256}.png"
    assert pictures.read(sha256) == b"picture"
    assert all_files(pictures) == [pictures.path(sha256)]


def test_an_existing_picture_is_not_written_again(pictures: PictureFiles) -> None:
    path = pictures.path(pictures.write(b"picture"))
    before = path.stat()
    pictures.write(b"picture")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_truncated_picture_is_written_again(pictures: PictureFiles) -> None:
    sha256 = pictures.write(b"picture")
    pictures.path(sha256).write_bytes(b"pic")
    pictures.write(b"picture")
    assert pictures.read(sha256) == b"picture"


def test_a_picture_has_its_name_only_when_its_bytes_are_on_disk(
    pictures: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(b"picture").hexdigest()
    seen = []

    def watch(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((name.suffix, pictures.path(sha256).exists()))

    monkeypatch.setattr(os, "fsync", watch)
    pictures.write(b"picture")
    assert seen[-2:] == [(".tmp", False), ("", True)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_and_leaves_no_file(
    pictures: PictureFiles, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_room(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    pictures.write(b"another picture")
    # The folder exists, so only the file itself needs space.
    pictures.remove(pictures.write(b"picture"))
    before = all_files(pictures)
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(DiskFull, match="free some space"):
        pictures.write(b"picture")
    assert all_files(pictures) == before


def test_the_error_names_a_folder_that_cannot_be_written(
    shared_folder: Path, read_only: ReadOnly
) -> None:
    pictures = PictureFiles(shared_folder / "pictures")
    with read_only(), pytest.raises(FolderUnusable, match="permission denied") as caught:
        pictures.write(b"picture")
    assert caught.value.path == pictures.folder
    assert "--data" in str(caught.value)


def test_the_error_names_a_missing_picture(pictures: PictureFiles) -> None:
    with pytest.raises(PictureMissing, match="is missing") as caught:
        pictures.read("ab" * 32)
    assert caught.value.sha256 == "ab" * 32


def test_changed_bytes_are_detected(pictures: PictureFiles) -> None:
    sha256 = pictures.write(b"picture")
    pictures.path(sha256).write_bytes(b"pikture")
    with pytest.raises(PictureDamaged):
        pictures.read(sha256)


def test_a_removal_keeps_other_files_and_can_be_repeated(pictures: PictureFiles) -> None:
    first, second = pictures.write(b"first"), pictures.write(b"second")
    pictures.remove(first)
    pictures.remove(first)
    assert all_files(pictures) == [pictures.path(second)]


def test_only_half_written_files_are_removed_at_the_start(pictures: PictureFiles) -> None:
    sha256 = pictures.write(b"picture")
    pictures.path(sha256).with_suffix(".tmp").write_bytes(b"pic")
    pictures.remove_half_written()
    assert all_files(pictures) == [pictures.path(sha256)]


@pytest.mark.parametrize("name", ["", "../" * 20 + "etc/passwd", "AB" * 32, "ab" * 32 + "\n"])
def test_only_a_hash_names_a_file(pictures: PictureFiles, name: str) -> None:
    with pytest.raises(ValueError, match="is no SHA-256"):
        pictures.path(name)


def test_png_keeps_every_pixel() -> None:
    assert decode_png(encode_png(pixels(1))) == pixels(1)


@pytest.mark.parametrize("data", [b"", b"GIF89a", encode_png(pixels(1))[:200]])
def test_bytes_that_are_not_a_png_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no PNG"):
        decode_png(data)
