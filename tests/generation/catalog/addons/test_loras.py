"""The operator's LoRAs: files in a folder, and a list."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from generation.catalog.addons.loras import NO_LORAS, ListedLora, LoraLibrary, check_source
from generation.errors import LoraError
from generation.models.adapters.reading import read_adapter
from generation.models.text.inversions import read_inversion
from generation.values.lora import Lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Ink.safetensors", "sub/wash.SFT", "notes.txt", "old.ckpt", "ünicode.sft"):
        file = tmp_path / "loras" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path / "loras"


def test_files_are_found_by_their_stems_in_capitals_or_not(folder: Path) -> None:
    library = LoraLibrary(folder)
    assert list(library.all()) == ["ink", "wash", "ünicode"]
    assert library.named(" INK ").path == folder / "Ink.safetensors"


def test_what_is_listed_comes_before_a_file(folder: Path) -> None:
    listed = ListedLora(name="ink", path=folder / "sub/wash.SFT", triggers=("inky",), weight=0.7)
    library = LoraLibrary(folder, (listed,))
    assert library.named("Ink") == listed
    assert list(library.all()) == ["ink", "wash", "ünicode"]


def test_an_unknown_name_is_answered_with_near_ones(folder: Path) -> None:
    with pytest.raises(LoraError, match=r"There is no LoRA 'inc'; use Ink\."):
        LoraLibrary(folder).named("inc")
    with pytest.raises(LoraError, match=r"no other one; the operator can set lora_folder\."):
        NO_LORAS.named("ink")


@pytest.mark.parametrize("name", ["../Ink", "/etc/passwd", "sub/wash", "", "\0", "Ink.safetensors"])
def test_a_name_is_never_a_path(folder: Path, name: str) -> None:
    with pytest.raises(LoraError, match="There is no LoRA"):
        LoraLibrary(folder).named(name)


def test_a_hash_finds_the_file_under_any_name(folder: Path) -> None:
    digest = hashlib.sha256(b"sub/wash.SFT").hexdigest()
    path, found = LoraLibrary(folder).file(Lora("Ink", 1.0, digest))
    assert (path.name, found) == ("wash.SFT", digest)


def test_a_folder_that_cannot_be_read_is_one_sentence(folder: Path) -> None:
    library = LoraLibrary(folder / "none")
    assert not library.all()
    listed = LoraLibrary(None, (ListedLora(name="gone", path=folder / "gone.safetensors"),))
    with pytest.raises(LoraError, match="cannot be read"):
        listed.file(Lora("gone"))


def test_no_sentence_for_a_member_holds_the_operators_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "home of the operator"
    folder.mkdir()
    gone = LoraLibrary(None, (ListedLora(name="gone", path=folder / "gone.safetensors"),))
    empty = LoraLibrary(folder / "none", kind="embedding")
    broken = folder / "broken.safetensors"

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    def unreadable() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "glob", refuse)
            LoraLibrary(folder).all()

    loading = "broken.safetensors cannot be loaded"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: gone.file(Lora("gone")), "gone.safetensors cannot be read"),
        (lambda: empty.named("ink"), "the operator can put one into embedding_folder."),
        (unreadable, "The folder of LoRAs cannot be read (Permission denied)"),
        (lambda: read_adapter(broken, "broken", {}, mock.Mock(), "sd"), loading),
        (lambda: read_inversion(broken, "broken", {"text_encoder": 4}, "sd"), loading),
    ]
    broken.write_bytes(b"broken")
    for make, said in cases:
        with pytest.raises(LoraError) as caught:
            make()
        assert said in str(caught.value)
        assert "operator/" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
    # The operator learns the folder from the log.
    assert f"{broken} cannot be loaded" in caplog.text
    assert f"{folder} cannot be read" in caplog.text


def test_a_pickle_and_another_file_are_refused(folder: Path) -> None:
    with pytest.raises(LoraError, match="pickle"):
        check_source(folder / "old.ckpt")
    with pytest.raises(LoraError, match=r"no \.safetensors file"):
        check_source(folder / "notes.txt")


def test_the_catalog_of_loras_loads_no_torch() -> None:
    code = "import sys, generation.catalog.addons.loras; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
