"""The commands as an operator types them, each in a process of its own or by its function."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from bot import generating
from bot.cli import app
from bot.config import Settings, load_settings
from generation.locate import starter_folder
from generation.metadata import read_png, to_png
from storage.opening import open_storage
from tests.generation.examples import EDGE, STARTER
from tests.generation.hub import Hub
from tests.generation.single_file import write_single_file
from tests.generation.tiny import tiny_pipeline

# Sets the title of the window, the colour, and the direction of what follows.
ESCAPES = "\x1b]0;PWNED\x07\x9b31m\u202e\nrabbit.png: the same, every pixel."
IMAGINE_BOT = str(Path(sys.executable).with_name("imagine-bot"))


def imagine_bot(
    *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [IMAGINE_BOT, *map(str, arguments)],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Shell:
    """Runs the same command in this process, which has torch loaded already."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.chdir(folder)
        monkeypatch.delenv("DISCORD_TOKEN", raising=False)

    def __call__(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


def sentence(result: Result) -> str:
    """Return the one sentence that a failed command printed."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


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


def test_help_answers_without_loading_torch_or_discord(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['imagine-bot', '--help']\n"
        "import bot, generation, bot.cli\n"
        "try: bot.cli.main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'discord', 'diffusers', 'transformers', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("run", "demo", "generate", "replay", "doctor", "backup", "restore"):
        assert command in result.stdout


def test_generate_twice_gives_the_same_pixels_and_one_file(rabbit: Path) -> None:
    again = imagine_bot("generate", "rabbit face", "--seed", "7", "--steps", "4", cwd=rabbit.parent)
    assert again.stdout.split() == [rabbit.name]
    assert [path.name for path in rabbit.parent.glob("rabbit*.png")] == [rabbit.name]
    pixels, recipe, _ = read_png(rabbit.read_bytes())
    assert pixels.sha256 == recipe.pixels_sha256
    assert (recipe.seed, recipe.steps, recipe.width) == (7, 4, EDGE)


def test_generate_takes_every_option(shell: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "orange").save(tmp_path / "start.jpg")
    result = shell(
        *("generate", "red apple", "--negative", "blue", "--seed", "5", "--steps", "4"),
        *("--guidance", "3.5", "--width", "96", "--height", "64", "--scheduler", "lms"),
        *("--count", "2", "--image", "start.jpg", "--strength", "0.7", "--out", "made"),
    )
    names = result.stdout.split()
    assert len(names) == 2, result.stderr
    recipe = read_png((tmp_path / names[1]).read_bytes())[1]
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("red apple", "blue", 6)
    assert (recipe.guidance_scale, recipe.scheduler, recipe.strength) == (3.5, "lms", 0.7)
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
    shown.write_bytes(to_png(pixels, recipe, factor=4))
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
    shutil.copytree(starter_folder(), tmp_path / "mine")
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", ""], "The prompt is empty"),
        (["generate", "x" * 1001], "The prompt has 1,001 characters"),
        (
            ["generate", "rabbit", "--steps", "0"],
            "For steps use a whole number",
        ),
        (["generate", "rabbit", "--steps", "10000"], "not 10000."),
        (["generate", "rabbit", "--width", "100"], "not a multiple of 8"),
        (
            ["generate", "rabbit", "--height", "4096"],
            "For height use a whole number",
        ),
        (
            ["generate", "rabbit", "--seed", "-1"],
            "For seed use a whole number",
        ),
        (["generate", "rabbit", "--seed", str(2**40)], "not 1099511627776."),
        (["generate", "rabbit", "--scheduler", "euler"], "There is no scheduler 'euler'"),
        (["generate", "rabbit", "--count", "5"], "For count use"),
        (["generate", "rabbit", "--strength", "0.5"], "add --image FILE"),
        (["generate", "rabbit", "--image", "missing.png"], "missing.png cannot be read"),
        (["generate", "rabbit", "--model", "/nowhere"], "/nowhere"),
        (["generate", "rabbit", "--model", ""], "sets model to ''; it should be some text, or"),
        (["generate", "rabbit", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["replay", "missing.png"], "missing.png cannot be read"),
        (["replay", "/dev/zero"], "send an image of at most 25 MiB"),
        (["generate", "rabbit", "--image", "/dev/zero"], "send an image of at most 25 MiB"),
        (["replay", "77"], "does not exist"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_sentence(
    shell: Shell, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in sentence(shell(*arguments))


def test_a_seed_that_is_text_is_refused_by_the_command_line(shell: Shell, tmp_path: Path) -> None:
    result = shell("generate", "rabbit", "--seed", "seven")
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.stderr


def test_replay_of_a_picture_without_a_recipe_says_so(shell: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    said = sentence(shell("replay", "plain.png"))
    assert said.startswith("That picture holds no recipe of Imagine Bot")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("queue_limit = ", "config.toml is not valid TOML"),
        ('modle = "starter"', "config.toml has an unknown key 'modle'; did you mean 'model'?"),
        ('queue_limit = "lots"', "config.toml sets queue_limit to 'lots'"),
        ("max_steps = 0", "config.toml sets max_steps to 0"),
        ('dtype = "float8"', "config.toml sets dtype to 'float8'"),
        ('device = "gpu"', "There is no device 'gpu'; say cuda, cuda:1, mps or cpu"),
    ],
)
def test_a_wrong_config_names_the_key_and_the_value(
    shell: Shell, tmp_path: Path, toml: str, said: str
) -> None:
    (tmp_path / "config.toml").write_text(toml)
    assert said in sentence(shell("generate", "rabbit"))


def test_a_wrong_environment_variable_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_BOT_QUEUE_LIMIT", "lots")
    said = sentence(shell("generate", "x"))
    assert "IMAGINE_BOT_QUEUE_LIMIT" in said
    assert "'lots'" in said


def test_a_misspelled_environment_variable_is_not_passed_over(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_BOT_MODLE", "starter")
    assert sentence(shell("generate", "owl")) == (
        "the environment has an unknown key 'IMAGINE_BOT_MODLE'; did you mean 'IMAGINE_BOT_MODEL'?"
    )


def test_every_key_of_the_example_config_is_right(shell: Shell, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "config.example.toml"
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in example.read_text().splitlines()
    ]
    text = "\n".join(lines).replace('device = "cuda"', 'device = "cpu"')
    (tmp_path / "config.toml").write_text(text)
    settings = load_settings(tmp_path / "config.toml")
    assert settings.model_fields_set == set(Settings.model_fields)


def test_a_broken_model_gets_one_sentence(shell: Shell, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(starter_folder(), model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickle" in sentence(shell("generate", "x", "--model", model))
    weights.with_suffix(".bin").unlink()
    assert "vae" in sentence(shell("generate", "x", "--model", model))


def test_a_folder_that_cannot_be_written_gets_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = sentence(shell("generate", "x", "--steps", "1", "--out", "file/folder"))
    assert "name another with --out" in said


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_refused_before_a_model_is_loaded(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "open_engine", None)
    # Even the superuser, whom no mode stops, can make no file there.
    said = sentence(shell("generate", "x", "--out", "/proc"))
    assert said.startswith("Nothing can be written to /proc (")
    assert said.endswith("name another with --out.")


def test_doctor_says_what_is_well_and_how_to_mend_the_rest(tmp_path: Path) -> None:
    result = imagine_bot("doctor", "--data", "data", cwd=tmp_path)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert "✗ token: there is none" in lines
    assert any(line.startswith("  → There is no Discord token; set") for line in lines)
    assert f"✓ model: starter, {EDGE}x{EDGE} pixels, {STARTER.prompt_limit} tokens" in lines
    assert any(line.startswith("✓ device: cpu, float32") for line in lines)
    assert "✓ weights: loaded, and one step was taken with them" in lines
    assert "✓ database: data is not there yet; the bot makes it when it starts" in lines
    assert any(line[2:].startswith("space: ") for line in lines)
    assert not any(tmp_path.iterdir())


LOOK_AT_MODELS = """
import sys
from pathlib import Path
from bot.config import Settings
from bot.doctor import _model, _weights
for model in sys.argv[1:]:
    settings = Settings(model=model, data=Path("data"))
    print(_model(settings).text, "|", _weights(settings).text)
"""


def test_doctor_brings_no_model_here(tmp_path: Path) -> None:
    file, home = tmp_path / "whole.safetensors", tmp_path / "home"
    write_single_file(tiny_pipeline(), file)
    with Hub.running() as hub:
        hub.add_folder("owner/rabbit", starter_folder())
        own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "PATH": "/usr/bin:/bin"}
        said = subprocess.check_output(
            [sys.executable, "-c", LOOK_AT_MODELS, "owner/rabbit", str(file)], text=True, env=own
        )
        assert hub.downloads() == []
    assert not home.exists()
    left = "left to the first start, which brings the model here"
    of_the_hub, of_the_file = said.splitlines()
    weights = sum(path.stat().st_size for path in starter_folder().rglob("*.safetensors"))
    there = re.fullmatch(
        r"The model owner/rabbit is not on this machine yet; the bot downloads (\d+) MB "
        rf"when it starts\. \| {left}",
        of_the_hub,
    )
    assert there is not None
    assert 0 <= int(there[1]) - weights // 1_000_000 <= 3
    assert of_the_file == (
        f"The model {file} is a whole checkpoint; the bot converts it when it first starts."
        f" | {left}"
    )


@pytest.fixture
def doctor(shell: Shell) -> Iterator[Callable[..., str]]:
    """The command in this process, which gets its log back afterwards."""
    names = ("", "bot", "generation", "storage", "discord.client", "py.warnings")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    yield lambda *arguments: shell("doctor", *arguments).stdout
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_doctor_tries_a_data_folder_that_is_there_and_one_that_cannot_be(
    doctor: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "file").write_text("in the way")
    out = doctor()
    assert "✓ database: data can be written" in out
    assert "✗ rights: other users of this machine may look into data\n  → chmod 700 data" in out
    (tmp_path / "data").chmod(0o700)
    out = doctor("--data", "file/data")
    assert "✗ database: file/data is not there and cannot be made" in out
    assert "or name another folder with --data" in out


def test_doctor_names_a_folder_that_can_be_none(doctor: Callable[..., str]) -> None:
    assert f"{'d' * 300} can be no folder" in doctor("--data", "d" * 300)


def test_doctor_tells_a_dtype_from_a_device(doctor: Callable[..., str], tmp_path: Path) -> None:
    # As some editors on Windows write it, with a mark that says UTF-8.
    (tmp_path / "config.toml").write_text('device = "cpu"\ndtype = "float16"', "utf-8-sig")
    assert "✗ device: float16 cannot be used on cpu\n  → float16 is of no use on a CPU" in doctor()


def test_doctor_tells_all_faults_of_a_config_and_looks_at_the_rest(
    doctor: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(starter_folder(), tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    (tmp_path / "config.toml").write_text('modle = "x"\nqueue_limit = 0\nmodel = "broken"')
    monkeypatch.setenv("DISCORD_TOKEN", "'quoted'")
    out = doctor()
    assert out.count("✗ config: cannot be used") == 2
    assert "unknown key 'modle'" in out
    assert "sets queue_limit to 0" in out
    assert "✗ token: cannot be used\n  → The Discord token stands in quotes" in out
    assert "quoted'" not in out
    # Some faults of a model are seen in its files, and the others when it is loaded.
    assert "✗ weights: cannot be used\n  → " in out
    assert "unet" in out


def test_doctor_finds_a_database_that_is_none_and_a_device_that_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagine-bot.db").write_bytes(b"not a database at all" * 100)
    (tmp_path / "config.toml").write_text(
        'device = "cuda:7"\nmodel = "nobody/nothing-here"\nmin_free_mb = 1_000_000_000'
    )
    out = imagine_bot("doctor", cwd=tmp_path, HF_HUB_OFFLINE="1").stdout
    assert "✗ database: the data folder cannot be used" in out
    assert "✗ device: cuda:7 cannot be used" in out
    assert "✗ model: nobody/nothing-here cannot be used" in out
    assert re.search(
        r"✗ space: data has only \d+ MB left, and below 1000000000 MB \(min_free_mb\) the bot "
        r"accepts no jobs\n  → make room",
        out,
    )


def test_a_backup_is_made_and_restored_with_a_sentence_each(tmp_path: Path) -> None:
    async def fill() -> None:
        async with open_storage(tmp_path / "data"):
            pass

    asyncio.run(fill())
    made = imagine_bot("backup", "copy", cwd=tmp_path)
    assert made.stdout == (
        "copy is a whole copy of data: the database and 0 pictures, 0 of them new.\n"
    )
    refused = imagine_bot("restore", "copy", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "with --replace they are put aside" in refused.stderr
    done = imagine_bot("restore", "copy", "--replace", cwd=tmp_path)
    assert done.returncode == 0
    assert "data is as copy has it: the database and 0 pictures." in done.stdout
    assert "What was there before is in " in done.stdout
    assert imagine_bot("backup", "data", cwd=tmp_path).returncode == 1
    assert imagine_bot("restore", "nowhere", cwd=tmp_path).returncode == 1
