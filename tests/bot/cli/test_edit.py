"""`imagine-bot generate --reference`, and `replay` of what it made."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from generation.images.pillow import to_image
from generation.images.png import read_png

from ...generation.examples import gradient
from ...generation.flux2_klein import make_flux2_klein
from .shell import Shell, sentence

PROMPT = "swap the two"


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "klein"
    make_flux2_klein(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (80, 70), "orange").save(tmp_path / "orange.jpg")
    to_image(gradient(96, 64)).save(tmp_path / "gradient.png")
    Image.new("RGB", (64, 64), "green").save(tmp_path / "green.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_edit_is_made_and_made_again_from_its_references(
    shell: Shell, klein: Path, folder: Path
) -> None:
    asked = ("generate", PROMPT, "--model", str(klein), "--seed", "3", "--count", "2")
    references = ("--reference", "gradient.png", "--reference", "orange.jpg")
    made = shell(*asked, *references)
    names = made.stdout.split()
    assert len(names) == 2, made.stderr
    pixels, recipe, _ = read_png((folder / names[1]).read_bytes())
    # The shape of the first reference, in the size of the model.
    assert (pixels.width, pixels.height) == (80, 48)
    assert (recipe.prompt, recipe.seed, recipe.steps, recipe.guidance_scale) == (PROMPT, 4, 4, 1.0)
    assert recipe.reference_sha256 is not None
    assert recipe.reference_sha256[0] == gradient(96, 64).sha256
    assert len(recipe.reference_sha256) == 2

    replay = ("replay", names[1], "--model", str(klein))
    again = shell(*replay, *references[2:], *references[:2])
    assert again.exit_code == 0, again.stdout
    assert "the same, every pixel" in again.stdout
    assert "of which 1 cannot be found; name each with --reference" in sentence(
        shell(*replay, *references[:2])
    )
    assert "green.png is not a picture that this one was edited from" in sentence(
        shell(*replay, *references, "--reference", "green.png")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reference", "orange.jpg"] * 5, "klein reads at most 4 reference pictures; you gave 5"),
        (["--reference", "missing.png"], "missing.png cannot be read"),
        (["--reference", "thin.png"], "That picture is 64x520; crop it"),
        (["--reference", "small.png"], "That picture is 40x40; a reference needs at least 64"),
        (["--reference", "orange.jpg", "--strength", "0.5"], "A strength needs a picture"),
        (["--reference", "orange.jpg", "--width", "72"], "this model needs a multiple of 16"),
        (["--scheduler", "ddim"], "ddim does not fit this model; choose one of euler, heun"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_sentence(
    shell: Shell, klein: Path, folder: Path, arguments: list[str], said: str
) -> None:
    Image.new("RGB", (64, 520)).save(folder / "thin.png")
    Image.new("RGB", (40, 40)).save(folder / "small.png")
    result = shell("generate", PROMPT, "--model", str(klein), *arguments)
    assert said in sentence(result)
