from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from generation.starter.train import app
from generation.starter.training.drawings import drawing
from generation.starter.training.drawings.drawing import EDGE, draw, open_album
from generation.starter.training.drawings.sources import Package, SourceUnavailable, fetch
from generation.starter.training.drawings.things import STYLES, base_hexcode, plain, read_things

from ..album import write_packages

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{}</svg>'


def tarball(folder: Path) -> bytes:
    """A package with one file, laid where npm would put it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/data.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"[]"))
    folder.mkdir(exist_ok=True)
    (folder / "some-names-1.0.0.tgz").write_bytes(file.getvalue())
    return file.getvalue()


class TestPackages:
    def test_the_pinned_package_is_unpacked(self, tmp_path: Path) -> None:
        digest = hashlib.sha512(tarball(tmp_path)).digest()
        pinned = Package(
            "@some/names", "1.0.0", "MIT", base64.b64encode(digest).decode(), ("package/data.json",)
        )
        fetch(tmp_path, [pinned])
        assert (tmp_path / "some-names-1.0.0" / "data.json").read_text() == "[]"

    def test_a_package_of_other_bytes_is_refused(self, tmp_path: Path) -> None:
        tarball(tmp_path)
        pinned = Package("@some/names", "1.0.0", "MIT", "AAAA", ("package/data.json",))
        with pytest.raises(SourceUnavailable, match=r"instead of AAAA, .* was removed; try again"):
            fetch(tmp_path, [pinned])
        # Neither it nor what was in it: the next call fetches another.
        assert not any(tmp_path.iterdir())

    def test_without_npm_the_sentence_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SourceUnavailable, match="npm is not installed"):
            fetch(tmp_path / "packages")


class TestThings:
    @pytest.mark.parametrize(
        ("label", "name"),
        [
            ("four-leaf clover", "four leaf clover"),
            ("eight o’clock", "eight o'clock"),
            ("keycap: 5", "keycap 5"),
            ("piñata", "pinata"),
            ("Japanese “here” button", "japanese here button"),
        ],
    )
    def test_names_are_what_people_type(self, label: str, name: str) -> None:
        assert plain(label) == name

    def test_variation_selectors_and_capitals_do_not_count(self) -> None:
        assert base_hexcode("0035-fe0f-20e3") == base_hexcode("0035-20E3") == "0035-20E3"

    def test_people_and_sizes_and_what_has_no_picture_are_left_out(self, tmp_path: Path) -> None:
        write_packages(tmp_path)
        things = read_things(tmp_path, tuple(STYLES))
        assert [thing.name for thing in things] == ["soccer ball", "rugby football", "right arrow"]
        assert [thing.styles for thing in things] == [("noto", "flat"), ("noto",), ("noto",)]

    def test_what_people_may_type_for_them_is_written_beside_a_model(self, tmp_path: Path) -> None:
        write_packages(tmp_path / "packages")
        made = CliRunner().invoke(app, ["emoji", str(tmp_path), "--work", str(tmp_path)])
        assert made.exit_code == 0, made.output
        assert json.loads((tmp_path / "emoji.json").read_text("utf-8")) == {
            "⚽": "soccer ball",
            "🏉": "rugby football",
            "➡": "right arrow",
        }

    def test_a_keyword_belongs_to_few_things(self, tmp_path: Path) -> None:
        write_packages(tmp_path)
        soccer, rugby, _ = read_things(tmp_path, tuple(STYLES))
        assert soccer.keywords == ("football", "soccer")
        assert rugby.keywords == ("football", "rugby")

    def test_an_arrow_is_not_mirrored(self, tmp_path: Path) -> None:
        write_packages(tmp_path)
        assert [thing.mirrors for thing in read_things(tmp_path, tuple(STYLES))] == [
            True,
            True,
            False,
        ]


class TestDrawing:
    def test_what_is_opaque_fills_the_square_from_edge_to_edge(self) -> None:
        picture = draw(SQUARE.format('<rect x="3" y="5" width="8" height="2" fill="#0080ff"/>'))
        assert picture.shape == (EDGE, EDGE, 4)
        left, top, right, bottom = Image.fromarray(picture).getchannel("A").getbbox() or (0,) * 4
        assert (left, right) == (1, EDGE - 1)
        assert top + bottom == EDGE
        assert bottom - top == pytest.approx((EDGE - 2) / 4, abs=2)
        assert tuple(picture[EDGE // 2, EDGE // 2]) == (0, 128, 255, 255)

    def test_an_album_is_drawn_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_packages(tmp_path / "packages")
        drawn = open_album(tmp_path / "packages", tmp_path / "cache", tuple(STYLES))
        monkeypatch.setattr(drawing, "draw", None)
        again = open_album(tmp_path / "packages", tmp_path / "cache", tuple(STYLES))
        assert len(drawn.pictures) == 4
        assert np.array_equal(drawn.pictures, again.pictures)
        ball = again.pictures[again.index["soccer ball", "flat"]]
        assert tuple(ball[EDGE // 2, EDGE // 2]) == (255, 0, 0, 255)

    def test_a_cache_of_other_things_is_refused(self, tmp_path: Path) -> None:
        write_packages(tmp_path / "packages")
        cache = tmp_path / "cache"
        cache.mkdir()
        np.savez(cache / f"album-noto-flat-{EDGE}.npz", pictures=np.zeros((9, 1, 1, 4), np.uint8))
        with pytest.raises(ValueError, match="remove it"):
            open_album(tmp_path / "packages", cache, tuple(STYLES))
