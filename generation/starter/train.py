"""Train the starter model. Each command continues from its last checkpoint.

Run `fetch`, then `autoencoder`, `latents`, `reading`, `diffusion`, `export` and `emoji`. To run a
command on several processes: `torchrun --nproc-per-node 2 -m generation.starter.train diffusion`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from accelerate import PartialState
from rich.console import Console

from ..catalog.files import EMOJI
from .training.drawings.drawing import Album, open_album
from .training.drawings.scenes import HeldOut, hold_out
from .training.drawings.sheet import SAMPLES, Painter, request, sheet
from .training.drawings.sources import SourceUnavailable
from .training.drawings.sources import fetch as fetch_sources
from .training.drawings.things import STYLES, emoji_names, read_things
from .training.export import adopt as adopt_model
from .training.export import export as export_model
from .training.export import park as park_model
from .training.learning.autoencoder import AutoencoderTask, held_out_psnr, settle_encoder, trained
from .training.learning.diffusion import DiffusionTask
from .training.learning.latents import SHARD, check_encoder, encode, fingerprint, read_latents
from .training.learning.networks import Shape, parameters
from .training.learning.progress import Schedule, read
from .training.learning.progress import save as write
from .training.learning.reading import ReadingTask
from .training.learning.sketches import draw_forms
from .training.learning.trainer import Precision, Settings, Task, on_cpu
from .training.learning.trainer import train as run_training
from .training.learning.vocabulary import read_tokenizer, train_tokenizer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_console = Console(stderr=True, soft_wrap=True)

Work = Annotated[Path, typer.Option(help="The folder for packages, caches and checkpoints.")]
Steps = Annotated[int, typer.Option(help="Stop at this step; a later call continues from there.")]
Decay = Annotated[
    int | None,
    typer.Option(help="Lower the rate over so many steps, beginning now, and stop then."),
]
InPrecision = Annotated[Precision, typer.Option(help="The type of numbers; no: float32.")]
Batch = Annotated[int, typer.Option(help="Pictures in one step, over all processes.")]
Peak = Annotated[float, typer.Option(help="The learning rate after the warm-up.")]
Workers = Annotated[int, typer.Option(help="Processes that make batches; for one GPU about 8.")]
Compiled = Annotated[bool, typer.Option("--compile", help="Compile the network; on a GPU only.")]
Save = Annotated[int, typer.Option(help="Write a checkpoint every so many steps.")]

SEED: Final = 0
_WORK: Final = Path("data/starter")
_ENDLESS: Final = 10**9
_SAMPLE_COLUMNS: Final = 4


def _one_by_one() -> AbstractContextManager[None]:
    """Let the main process of a `torchrun` make missing files before the others look for them."""
    turns: AbstractContextManager[None] = _processes().main_process_first()
    return turns


def _processes() -> PartialState:
    return PartialState(cpu=on_cpu())


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn errors about files of a work folder into the command's own error."""
    try:
        yield
    except (FileExistsError, FileNotFoundError, SourceUnavailable, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def read_album(work: Path) -> tuple[Album, HeldOut]:
    """Return the album in `work`, and what is held out; a missing album is fetched and drawn."""
    with _one_by_one(), _in_one_sentence():
        fetch_sources(work / "packages")
        album = open_album(work / "packages", work / "cache", tuple(STYLES))
    return album, hold_out(album.things, tuple(STYLES), SEED)


def _say(line: dict[str, Any]) -> None:
    _console.print("  ".join(f"{name} {value}" for name, value in line.items()), highlight=False)


def _settings(
    file: Path,
    batch: int,
    peak: float,
    warmup: int,
    decay: int | None,
    precision: Precision,
    save: int,
    workers: int,
    *,
    compiled: bool = False,
) -> Settings:
    """Return the settings of a training; a decay that a checkpoint began is continued."""
    if compiled and not torch.cuda.is_available():
        raise typer.BadParameter("--compile needs a GPU: on a CPU its gradients are wrong.")
    state = read(file) or {"step": 0, "decay_from": None}
    schedule = Schedule(peak, warmup, warm_from=state.get("warm_from", 0))
    if decay is not None:
        begun = state["decay_from"]
        start = state["step"] if begun is None else begun
        schedule = replace(schedule, decay_from=start, decay_steps=decay)
    return Settings(
        batch,
        schedule,
        precision=precision,
        save_every=save,
        workers=workers,
        compiled=compiled,
    )


def _train(
    task: Task,
    settings: Settings,
    work: Path,
    until: int,
    on_save: Callable[[int], None] = lambda _: None,
) -> None:
    """Train up to step `until`; print a message if the training is already there."""
    state = read(work / f"{task.name}.pt")
    if state is not None and state["step"] >= until:
        _console.print(
            f"The {task.name} is at step {state['step']} already, and this call ends at step "
            f"{until}; to continue after a decay, train without one first."
        )
        return
    run_training(task, settings, work, until=until, report=_say, on_save=on_save)


@app.command()
def fetch(work: Work = _WORK) -> None:
    """Fetch the pinned packages with npm and draw their icons."""
    album, _ = read_album(work)
    _console.print(f"{len(album.things)} things, {len(album.pictures)} pictures")


@app.command()
def autoencoder(
    work: Work = _WORK,
    steps: Steps = _ENDLESS,
    decay: Decay = None,
    batch: Batch = 16,
    peak: Peak = 1e-3,
    precision: InPrecision = "no",
    save: Save = 100,
    workers: Workers = 0,
    decoder_only: Annotated[
        bool, typer.Option(help="Keep the encoder, so the encoded scenes stay valid.")
    ] = False,
) -> None:
    """Train the autoencoder; a step counts crops of 64 pixels."""
    if decoder_only:
        with _in_one_sentence(), _one_by_one():
            if _processes().is_main_process:
                settle_encoder(work)
    settings = _settings(work / "autoencoder.pt", batch, peak, 100, decay, precision, save, workers)
    until = min(steps, settings.schedule.last_step or _ENDLESS)
    task = AutoencoderTask(read_album(work)[0], Shape(), SEED, decoder_only=decoder_only)
    _train(task, settings, work, until)


@app.command()
def psnr(work: Work = _WORK, count: int = 200) -> None:
    """Measure the autoencoder on pictures that it has not seen, and on pictures that it has."""
    album, _ = read_album(work)
    with _in_one_sentence():
        network = trained(Shape(), work)
    held, seen = held_out_psnr(network, album, count)
    _console.print(f"PSNR: held out {held:.2f} dB, seen {seen:.2f} dB")


@app.command()
def latents(work: Work = _WORK, scenes: int = 40_000, workers: Workers = 0) -> None:
    """Encode the missing scenes with the trained autoencoder."""
    album, held = read_album(work)
    shards = -(-scenes // SHARD)
    with _in_one_sentence(), _one_by_one():
        encode(
            trained(Shape(), work).to(_processes().device),
            album,
            held,
            work / "latents",
            seed=SEED,
            size=SHARD,
            shards=shards,
            workers=workers,
            report=lambda done: _console.print(f"{done} of {shards} shards"),
        )


@app.command()
def reading(
    work: Work = _WORK,
    steps: Steps = _ENDLESS,
    decay: Decay = None,
    batch: Batch = 192,
    peak: Peak = 2e-3,
    precision: InPrecision = "no",
    save: Save = 500,
    workers: Workers = 0,
    scenes: int = 1_000_000,
) -> None:
    """Train the text encoder alone: to sketch what captions mean, and to tell them apart.

    The command needs the autoencoder: it encodes every picture in all sizes once.
    """
    album, held = read_album(work)
    settings = _settings(work / "reading.pt", batch, peak, 100, decay, precision, save, workers)
    until = min(steps, settings.schedule.last_step or _ENDLESS)
    with _in_one_sentence(), _one_by_one():
        forms = _forms(work, album, workers)
    task = ReadingTask(album, held, forms, scenes, _tokenizer(work, album), Shape(), SEED)
    if (work / "diffusion.pt").is_file():
        _console.print(
            f"{work / 'diffusion.pt'} keeps its own text encoder; to use another one, move that "
            "file away and train the UNet again."
        )
    _train(task, settings, work, until)


def _forms(work: Path, album: Album, workers: int) -> torch.Tensor:
    """Return the latents of `draw_forms`, drawn now or read from the folder `work`.

    Raises:
        FileNotFoundError: there is no autoencoder.
        ValueError: the stored latents were encoded by another autoencoder.
    """
    network = trained(Shape(), work)
    stored = read(work / "forms.pt")
    if stored is None:
        network.to(_processes().device)
        latents = draw_forms(network, album, lambda form: _console.print(f"drawn: {form}"), workers)
        stored = {"latents": latents, "encoder": fingerprint(network)}
        write(stored, work / "forms.pt")
    if stored["encoder"] != fingerprint(network):
        raise ValueError(
            f"{work / 'forms.pt'} was encoded by another autoencoder, and reading.pt was learnt "
            "from it; remove both, and train the text encoder again."
        )
    forms: torch.Tensor = stored["latents"]
    return forms


@app.command()
def diffusion(
    work: Work = _WORK,
    steps: Steps = _ENDLESS,
    decay: Decay = None,
    batch: Batch = 48,
    peak: Peak = 3e-4,
    precision: InPrecision = "no",
    save: Save = 200,
    workers: Workers = 0,
    samples: Annotated[
        int, typer.Option(help="Write a sheet of pictures every so many steps; 0: none.")
    ] = 2_000,
    compiled: Compiled = False,
) -> None:
    """Train the UNet on the encoded scenes, starting with the text encoder of `reading`."""
    album, held = read_album(work)
    settings = _settings(
        *(work / "diffusion.pt", batch, peak, 300, decay, precision, save, workers),
        compiled=compiled,
    )
    until = min(steps, settings.schedule.last_step or _ENDLESS)
    with _in_one_sentence():
        check_encoder(work / "latents", trained(Shape(), work))
        found = read_latents(work / "latents", SEED)
    tokenizer = _tokenizer(work, album)
    task = DiffusionTask(album, held, found, tokenizer, Shape(), SEED)
    if not (work / "diffusion.pt").is_file():
        if (state := read(work / "reading.pt")) is None:
            raise typer.BadParameter(f"{work} holds no reading.pt; train the text encoder first.")
        task.begin_with(state)
    _console.print(f"{parameters(task.network):,} parameters, {len(found):,} scenes")

    def on_save(step: int) -> None:
        if samples and step % samples == 0:
            write_samples(work, step)

    _train(task, settings, work, until, on_save)


def _tokenizer(work: Path, album: Album) -> Any:
    with _one_by_one():
        if not (work / "tokenizer").is_dir():
            train_tokenizer(album.things, Shape().vocabulary, work / "tokenizer")
    return read_tokenizer(work / "tokenizer")


def write_samples(work: Path, step: int) -> None:
    """Write a sheet of sample pictures of the checkpoint in `work` to its folder `samples`."""
    export_model(work, work / "model", Shape())
    requests = [request(prompt, 7, edge=Shape().edge, steps=20) for prompt in SAMPLES]
    (work / "samples").mkdir(exist_ok=True)
    sheet(Painter.open(work / "model").paint(requests), _SAMPLE_COLUMNS).save(
        work / "samples" / f"{step:07d}.png"
    )


@app.command()
def export(folder: Path, work: Work = _WORK) -> None:
    """Write the trained model to FOLDER, in float16, in diffusers' layout."""
    with _in_one_sentence():
        export_model(work, folder, Shape())


@app.command()
def emoji(folder: Path, work: Work = _WORK) -> None:
    """Write to FOLDER the name of each emoji, which the model reads in place of the emoji."""
    with _in_one_sentence():
        names = emoji_names(read_things(work / "packages", tuple(STYLES)))
        text = json.dumps(names, ensure_ascii=False, indent=0, separators=(",", ":"))
        (folder / EMOJI).write_text(text + "\n", "utf-8")


@app.command()
def park(folder: Path, work: Work = _WORK) -> None:
    """Write the weights so far to FOLDER, in float16, for `adopt`."""
    with _in_one_sentence():
        park_model(work, folder, Shape())


@app.command()
def adopt(folder: Path, work: Work = _WORK) -> None:
    """Continue the training from the weights in FOLDER instead of starting from nothing."""
    with _in_one_sentence():
        adopt_model(folder, work, Shape())


if __name__ == "__main__":
    app()
