"""`imagine-bot generate` and `imagine-bot replay`."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from generation.images.png import read_png, write_png
from generation.models.locate import starter_folder
from generation.values.recipe import GeneratedImage

from ...generation.examples import EDGE
from ...storage.inspection import open_jobs
from ...storage.samples import new_job
from .shell import Shell, imagine_bot, sentence

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# Sets the title of the window, the colour, and the direction of what follows.
ESCAPES = "\x1b]0;PWNED\x07\x9b31m\u202e\nrabbit.png: the same, every pixel."


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture made by `imagine-bot generate`."""
    folder = tmp_path_factory.mktemp("rabbit")
    result = imagine_bot("generate", "rabbit face", "--seed", "7", "--steps", "4", cwd=folder)
    assert result.returncode == 0, result.stderr
    (name,) = result.stdout.split()
    return folder / name


def altered(picture: Path, **changes: object) -> Path:
    """Return a copy of a picture whose recipe says something else."""
    with Image.open(picture) as image:
        recipe = json.loads(image.text["imagine-bot"]) | changes  # type: ignore[attr-defined]
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("imagine-bot", json.dumps(recipe))
        chunks.add_itxt("parameters", image.text["parameters"])  # type: ignore[attr-defined]
        copy = picture.with_name("altered.png")
        image.save(copy, pnginfo=chunks)
    return copy


def other_model(folder: Path, *, factor: float) -> None:
    """Make a model with other weights than the bundled one."""
    shutil.copytree(starter_folder(), folder)
    scale_weights(folder, factor)


def scale_weights(folder: Path, factor: float) -> None:
    path = folder / WEIGHTS
    save_file({name: factor * weight for name, weight in load_file(path).items()}, path)


def test_generate_twice_gives_the_same_pixels_and_one_file(
    shell: Shell, rabbit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rabbit.parent)
    again = shell("generate", "rabbit face", "--seed", "7", "--steps", "4")
    assert again.stdout.split() == [rabbit.name]
    assert [path.name for path in rabbit.parent.glob("rabbit*.png")] == [rabbit.name]
    pixels, recipe, _ = read_png(rabbit.read_bytes())
    assert pixels.sha256 == recipe.pixels_sha256
    assert (recipe.seed, recipe.steps, recipe.width) == (7, 4, EDGE)


def test_generate_takes_every_option(shell: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "orange").save(tmp_path / "start.jpg")
    result = shell(
        *("generate", "red apple", "--negative", "blue", "--seed", "5", "--steps", "4"),
        *("--guidance", "3.5", "--width", "96", "--height", "64"),
        *("--scheduler", "dpmpp_2m_sde", "--spacing", "karras"),
        *("--count", "2", "--image", "start.jpg", "--strength", "0.7", "--out", "made"),
    )
    names = result.stdout.split()
    assert len(names) == 2, result.stderr
    recipe = read_png((tmp_path / names[1]).read_bytes())[1]
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("red apple", "blue", 6)
    assert (recipe.guidance_scale, recipe.strength) == (3.5, 0.7)
    assert (recipe.scheduler, recipe.spacing) == ("dpmpp_2m_sde", "karras")
    assert (recipe.width, recipe.height) == (96, 64)
    assert shell("replay", names[1], "--image", "start.jpg").exit_code == 0
    assert "name that one with --image" in sentence(shell("replay", names[1]))
    assert "not the picture that this one started from" in sentence(
        shell("replay", names[1], "--image", names[0])
    )


def test_replay_of_a_file_confirms_every_pixel(shell: Shell, rabbit: Path) -> None:
    result = shell("replay", rabbit)
    assert result.exit_code == 0
    assert f"the same, every pixel of {EDGE}x{EDGE}" in result.stdout


def test_replay_takes_the_source_as_it_was_made_and_as_it_was_shown(
    shell: Shell, rabbit: Path, tmp_path: Path
) -> None:
    options = ("--image", rabbit, "--seed", "1", "--steps", "3", "--strength", "0.6")
    (varied,) = shell("generate", "cat face", *options).stdout.split()
    pixels, recipe, _ = read_png(rabbit.read_bytes())
    shown = tmp_path / "shown.png"
    shown.write_bytes(write_png(pixels, recipe, factor=4))
    for source in (rabbit, shown):
        assert shell("replay", varied, "--image", source).exit_code == 0
    with Image.open(shown) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(shown)
    said = sentence(shell("replay", varied, "--image", shown))
    assert "not the picture that this one started from" in said


def test_replay_computes_with_the_threads_of_the_recipe(shell: Shell, tmp_path: Path) -> None:
    made = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # A prompt whose pixels differ between one thread and two on common processors.
            arguments = ("pizza on red", "--seed", "7", "--steps", "6", "--scheduler", "ddim")
            (name,) = shell("generate", *arguments, "--out", str(threads)).stdout.split()
            made[threads] = name
        for threads, name in made.items():
            assert read_png(Path(name).read_bytes())[1].threads == threads
            torch.set_num_threads(3 - threads)
            assert shell("replay", name).exit_code == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seed": 8}, "pixels differ"), ({"steps": 5}, "Steps: 4"), ({"read_prompt": "cat"}, "'cat'")],
    ids=str,
)
def test_replay_of_an_altered_recipe_says_what_differs(
    shell: Shell, rabbit: Path, changes: dict[str, object], said: str
) -> None:
    result = shell("replay", altered(rabbit, **changes))
    assert result.exit_code == 1
    assert "not the same" in result.stdout
    assert said in result.stdout


def test_replay_looks_for_no_model_by_the_word_of_a_file(shell: Shell, tmp_path: Path) -> None:
    other_model(tmp_path / "mine", factor=1.1)
    [name] = shell("generate", "owl", "--steps", "1", "--model", "mine").stdout.split()
    assert sentence(shell("replay", name)) == (
        "This picture was made by a model called 'mine'; name that one with --model, as a folder, "
        "a .safetensors file or a hub id."
    )
    assert shell("replay", name, "--model", "mine").exit_code == 0


def test_a_strangers_recipe_brings_no_escape_code_to_the_terminal(
    shell: Shell, rabbit: Path
) -> None:
    texts = dict.fromkeys(("device", "dtype", "unread_prompt"), ESCAPES)
    maps = {"versions": {"torch": ESCAPES}, "scheduler_settings": {ESCAPES: ESCAPES}}
    before = torch.get_num_threads()
    try:
        # Of so many threads each would wait for all others.
        result = shell("replay", altered(rabbit, seed=8, threads=1_024, **texts, **maps))
        foreign = shell("replay", altered(rabbit, model=ESCAPES))
    finally:
        torch.set_num_threads(before)
    assert (result.exit_code, foreign.exit_code) == (1, 1)
    assert "device: \\x1b]0;PWNED\\x07\\x9b31m\\u202e\\nrabbit.png: the same" in result.output
    assert not set("\x1b\x07\x9b\u202e") & set(result.output + foreign.output)


def test_replay_refuses_a_tile_that_no_decoder_has(shell: Shell, rabbit: Path) -> None:
    for tile in (1, 16, 40):
        assert sentence(shell("replay", altered(rabbit, decoder_tile=tile))) == (
            f"The decoder tile is {tile}; this model needs a multiple of 32."
        )


def test_a_size_that_the_model_makes_nothing_good_of_is_made_and_said(shell: Shell) -> None:
    result = shell("generate", "owl", "--steps", "1", "--width", "256")
    assert result.exit_code == 0
    assert "is for pictures of at most 128 pixels in width and height" in result.stderr


@pytest.fixture
def small_files() -> Iterator[None]:
    """A system that lets no file grow beyond 130 kB, which the tokenizer's does not need."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_picture_for_which_there_is_no_room_is_not_left_half_written(
    shell: Shell, tmp_path: Path, small_files: None
) -> None:
    size = ("--width", "416", "--height", "416")
    result = shell("generate", "owl", "--steps", "1", *size, "--out", "made")
    said = result.stderr.splitlines()[-1]
    assert result.exit_code == 1
    assert said.endswith("cannot be written (File too large); name another folder with --out.")
    assert list((tmp_path / "made").iterdir()) == []


def test_replay_of_altered_pixels_says_so(shell: Shell, rabbit: Path) -> None:
    with Image.open(rabbit) as image:
        chunks = PngImagePlugin.PngInfo()
        for key, text in image.text.items():  # type: ignore[attr-defined]
            chunks.add_itxt(key, text)
        image.putpixel((3, 3), (1, 2, 3))
        painted = rabbit.with_name("painted.png")
        image.save(painted, pnginfo=chunks)
    result = shell("replay", painted)
    assert result.exit_code == 1
    assert "1 of 16,384 pixels differ" in result.stdout


def test_generate_takes_a_listed_model_with_its_defaults_and_replay_finds_it(
    shell: Shell, tmp_path: Path
) -> None:
    shutil.copytree(starter_folder(), tmp_path / "mine")
    (tmp_path / "config.toml").write_text(
        """
        [[models]]
        name = "Emoji"
        source = "starter"
        [[models]]
        name = "Own"
        source = "mine"
        steps = 2
        guidance_scale = 3.0
        size = 64
        scheduler = "lms"
        needs_filter = true
        """
    )
    [name] = shell("generate", "owl", "--model", "own").stdout.split()
    recipe = read_png((tmp_path / name).read_bytes())[1]
    assert (recipe.model, recipe.steps, recipe.guidance_scale) == ("mine", 2, 3.0)
    assert (recipe.width, recipe.scheduler) == (64, "lms")
    assert shell("replay", name).exit_code == 0
    # The folder has got another name, which the recipe does not know.
    (tmp_path / "mine").rename(tmp_path / "moved")
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace('"mine"', '"moved"'))
    assert shell("replay", name).exit_code == 0


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """A folder with two listed models whose folders have the same name."""
    other_model(tmp_path / "first" / "mine", factor=1.1)
    other_model(tmp_path / "second" / "mine", factor=1.2)
    (tmp_path / "config.toml").write_text(
        """
        [[models]]
        name = "One"
        source = "first/mine"
        [[models]]
        name = "Two"
        source = "second/mine"
        """
    )
    return tmp_path


def test_replay_of_a_file_finds_the_model_by_its_weights(shell: Shell, namesakes: Path) -> None:
    for model in ("One", "Two"):
        [name] = shell("generate", f"owl {model}", "--steps", "1", "--model", model).stdout.split()
        result = shell("replay", name)
        assert result.exit_code == 0, result.stdout


async def test_replay_of_a_job_takes_the_model_that_the_job_named(
    shell: Shell, namesakes: Path
) -> None:
    [name] = shell("generate", "owl", "--steps", "1", "--model", "Two").stdout.split()
    file = (namesakes / name).read_bytes()
    pixels, recipe, _ = read_png(file)
    async with open_jobs(namesakes / "data") as store:
        asked = replace(recipe.request(None), model="Two")
        job = await store.add(new_job(request=asked))
        await store.start(job.id)
        image = GeneratedImage(index=0, pixels=pixels, recipe=recipe)
        await store.complete(job.id, [(image, file)])
    # Only the other model has the name that is in the recipe.
    (namesakes / "second" / "mine").rename(namesakes / "second" / "moved")
    config = namesakes / "config.toml"
    config.write_text(config.read_text().replace("second/mine", "second/moved"))
    result = shell("replay", str(job.id))
    assert result.exit_code == 0, result.stdout

    scale_weights(namesakes / "second" / "moved", 2.0)
    result = shell("replay", str(job.id))
    assert result.exit_code == 1
    assert "model sha256" in result.stdout
