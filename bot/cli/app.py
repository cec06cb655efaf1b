"""The command line. Each command imports its own modules, so that --help is fast."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from generation.values.request import (
    COUNT_MAX,
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    REFERENCES_MAX,
    RESCALE_MAX,
    SCHEDULERS,
    SEED_MAX,
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    SPACINGS,
    STEPS_MAX,
    STEPS_MIN,
    STRENGTH_MAX,
    STRENGTH_MIN,
)

from .. import terminal

app = typer.Typer(
    name="imagine-bot",
    help="A self-hosted Discord image bot with a diffusion engine written by hand.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; ./config.toml if there is one.")
]
_SIZES: Final = f"{SIZE_MIN} to {SIZE_MAX}, a multiple of {SIZE_MULTIPLE}."
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the database and the pictures.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="starter, a folder, a .safetensors file, or an id on the Hugging Face hub."
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="If --model is a file with only the UNet or transformer (.gguf, .safetensors): the "
        "folder or hub id of the other parts.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imagine-bot {importlib.metadata.version('imagine-bot')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


@app.command()
def run(config: ConfigOption = None, data: DataOption = None) -> None:
    """Run the bot on Discord; the token comes from DISCORD_TOKEN or the config."""
    from .run import run_bot  # noqa: PLC0415

    raise typer.Exit(run_bot(config, data=data))


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Play /imagine, /vary and a 🔁 reaction, then exit.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes any that is free.")] = 0,
) -> None:
    """Run the bot in a simulated Discord in the browser: no token, no GPU, no download."""
    from ..demo import play_once, serve  # noqa: PLC0415

    raise typer.Exit(play_once() if once else serve(port))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What you want to see.")],
    negative: Annotated[str, typer.Option(help="What you do not want to see.")] = "",
    seed: Annotated[int | None, typer.Option(help=f"0 to {SEED_MAX}.")] = None,
    steps: Annotated[
        int | None, typer.Option(help=f"Denoising steps, {STEPS_MIN} to {STEPS_MAX}.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help=f"How closely to follow the prompt, {GUIDANCE_MIN:g} to {GUIDANCE_MAX:g}."
        ),
    ] = None,
    guidance_rescale: Annotated[
        float | None,
        typer.Option(help=f"Less contrast from guidance, 0 to {RESCALE_MAX:g}."),
    ] = None,
    width: Annotated[int | None, typer.Option(help=_SIZES)] = None,
    height: Annotated[int | None, typer.Option(help=_SIZES)] = None,
    scheduler: Annotated[str | None, typer.Option(help=f"{', '.join(SCHEDULERS)}.")] = None,
    spacing: Annotated[
        str | None, typer.Option(help=f"Of the noise levels: {', '.join(SPACINGS)}.")
    ] = None,
    count: Annotated[int, typer.Option(help=f"How many pictures, 1 to {COUNT_MAX}.")] = 1,
    image: Annotated[Path | None, typer.Option(help="A picture to start from.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help=f"With --image: {STRENGTH_MIN:g}, almost the same, to {STRENGTH_MAX:g}, all new."
        ),
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture that the prompt tells how to edit, for a model that can; up to "
            f"{REFERENCES_MAX} times."
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WEIGHT]",
            help="A LoRA by its name or file; give the option again for another.",
        ),
    ] = None,
    model: ModelOption = None,
    base: BaseOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    config: ConfigOption = None,
) -> None:
    """Make pictures without Discord and print the files that were written."""
    from ..requests.options import RequestOptions  # noqa: PLC0415
    from .generate import generate_files  # noqa: PLC0415

    options = RequestOptions(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        steps=steps,
        guidance_scale=guidance,
        width=width,
        height=height,
        scheduler=scheduler,
        guidance_rescale=guidance_rescale,
        spacing=spacing,  # type: ignore[arg-type]  # the request checks the name
        count=count,
        strength=strength,
    )
    raise typer.Exit(
        generate_files(
            options,
            image=image,
            references=reference or [],
            loras=lora or [],
            model=model,
            base=base,
            out=out,
            config=config,
        )
    )


@app.command()
def replay(
    picture: Annotated[str, typer.Argument(metavar="FILE.png|JOB_ID", help="What to make again.")],
    image: Annotated[
        Path | None, typer.Option(help="The picture that it started from, if it did.")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="A picture that it was edited from, if it was.")
    ] = None,
    lora: Annotated[
        list[Path] | None,
        typer.Option(help="The file of a LoRA that it was made with; once for each."),
    ] = None,
    model: ModelOption = None,
    base: BaseOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a picture again from its recipe; exit 0 only if every pixel is the same, else 1."""
    from .replay import replay_picture  # noqa: PLC0415

    raise typer.Exit(
        replay_picture(
            picture,
            image=image,
            references=reference or [],
            loras=lora or [],
            model=model,
            base=base,
            data=data,
            config=config,
        )
    )


@app.command()
def doctor(
    config: ConfigOption = None,
    data: DataOption = None,
    card: Annotated[
        float | None,
        typer.Option(help="GB of memory of a card: what of the settings would it need?", min=0.1),
    ] = None,
) -> None:
    """Check the set-up, and say how to fix what is wrong."""
    from .doctor import examine  # noqa: PLC0415

    raise typer.Exit(examine(config, data=data, card=card))


models_app = typer.Typer(
    help="The models of the operator's list: which are here, and bringing and removing them.",
    no_args_is_help=True,
)
app.add_typer(models_app, name="models")
_NAMES_HELP: Final = "Names in the list; without any, all."
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help=_NAMES_HELP, show_default=False)
]


@models_app.command("list")
def list_models(config: ConfigOption = None) -> None:
    """Print the family, licence and size of each model, and whether it is here."""
    from . import models  # noqa: PLC0415

    raise typer.Exit(models.list_models(config))


@models_app.command("pull")
def pull_models(names: NamesArgument = None, config: ConfigOption = None) -> None:
    """Show the licence, then download; an interrupted download goes on where it stopped."""
    from . import models  # noqa: PLC0415

    raise typer.Exit(models.pull_models(names or (), config))


@models_app.command("check")
def check_models(names: NamesArgument = None, config: ConfigOption = None) -> None:
    """Compare the files with the hub's hashes and with their own headers."""
    from . import models  # noqa: PLC0415

    raise typer.Exit(models.check_models(names or (), config))


@models_app.command("remove")
def remove_models(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in the list.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Remove what was downloaded or converted, after a question."""
    from . import models  # noqa: PLC0415

    raise typer.Exit(models.remove_models(names, config, data=data, yes=yes))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or a backup.")],
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Copy database and pictures, even while the bot runs; later, only what is new."""
    from .backup import back_up_folder  # noqa: PLC0415

    raise typer.Exit(back_up_folder(folder, config=config, data=data))


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `backup`.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move existing data out of the way.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Put a backup into the data folder; the bot must not be running."""
    from .backup import restore_folder  # noqa: PLC0415

    raise typer.Exit(restore_folder(folder, config=config, data=data, replace=replace))


@app.command()
def bench(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Some minutes: fewer steps, and no compiling.")
    ] = False,
    model: ModelOption = None,
    config: ConfigOption = None,
) -> None:
    """Measure this engine beside diffusers' StableDiffusionPipeline, on the same weights."""
    from ..bench import bench as measure  # noqa: PLC0415

    raise typer.Exit(measure(config, model=model, as_json=as_json, quick=quick))


def main() -> NoReturn:
    """Run the command line; an error is one sentence on standard error and exit code 1."""
    # OpenMP reads this when torch is loaded. Its threads wait for each other after every operation.
    # If another thread needs a core, such as the event loop, then waiting by a busy loop of the
    # default length makes a step four times slower; waiting without a busy loop, twice.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    terminal.prepare_streams()
    sys.exit(terminal.exit_code(app))
