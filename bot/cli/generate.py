"""`imagine-bot generate`: pictures without Discord."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from generation.catalog.addons.loras import check_source
from generation.catalog.files import PICKLES, SAFETENSORS
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidSource
from generation.images.files import check_bytes, read_source
from generation.images.limits import SOURCE_BYTES_MAX
from generation.images.png import write_png
from generation.values.lora import LoraTag
from generation.values.recipe import GeneratedImage, Recipe
from generation.values.request import SIZE_MAX, STEPS_MAX, GenerationRequest

from .. import console
from ..config import Settings, load_settings
from ..engines import inversion_library, load_engine, lora_library
from ..errors import MissingInput
from ..listing import ListedLora
from ..requests.builder import RequestBuilder
from ..requests.limits import OperatorLimits
from ..requests.options import RequestOptions
from .output import open_folder

if TYPE_CHECKING:
    from generation.engine.engine import Engine

_NAME_LENGTH: Final = 40
# For each processor. More threads only wait for each other.
_THREADS_MAX: Final = 4


@console.one_sentence
def generate_files(
    options: RequestOptions,
    *,
    image: Path | None,
    references: Sequence[Path],
    model: str | None,
    base: str | None,
    out: Path,
    config: Path | None,
    loras: Sequence[str] = (),
) -> int:
    """Make pictures, write them into `out` and print their names; return the exit code."""
    # The configured limits are for people on Discord, not for the operator.
    settings = load_settings(config, max_size=SIZE_MAX, max_steps=STEPS_MAX)
    listed = settings.named(model, base)
    profile = console.locate_model(listed)
    settings, chosen = with_loras(settings, loras)
    options = dataclasses.replace(options, loras=chosen)
    builder = RequestBuilder(
        OperatorLimits(settings, profile, listed),
        profile,
        library=lora_library(settings),
        inversions=inversion_library(settings),
    )
    request = _request(builder, options, image, references)
    with open_folder(out) as folder:
        if max(request.width, request.height) > profile.default_max_size:
            console.note(
                f"The model {profile.name} is for pictures of at most {profile.default_max_size} "
                "pixels in width and height; larger ones are seldom good."
            )
        pictures = make(open_engine(settings, profile), request)
        for picture in pictures:
            path = folder.write(_file_name(picture), write_png(picture.pixels, picture.recipe))
            console.say(str(path))
    if unread := pictures[0].recipe.unread_prompt:
        console.note(f"The model did not read: {unread}")
    return 0


def _request(
    builder: RequestBuilder,
    options: RequestOptions,
    image: Path | None,
    references: Sequence[Path],
) -> GenerationRequest:
    if references and image is not None:
        raise MissingInput("Use either --image, to start from a picture, or --reference, to edit.")
    if image is not None:
        return builder.similar(read_source(read_file(image)), options, guild_id=None)
    if options.strength is not None:
        raise MissingInput("A strength needs a picture to start from; add --image FILE.")
    if references:
        builder.check_references(len(references))
        pictures = [read_source(read_file(path)) for path in references]
        return builder.edit(pictures, options, guild_id=None)
    return builder.imagine(options, guild_id=None)


def with_loras(settings: Settings, given: Sequence[str]) -> tuple[Settings, tuple[LoraTag, ...]]:
    """Return the settings with the LoRA files among those `given`, and all that are given.

    Each is `name`, `name:weight`, or the same with the path of a file in place of the name.

    Raises:
        LoraError: a path is not that of a .safetensors file.
    """
    listed, tags = list(settings.loras), list[LoraTag]()
    for text in given:
        tag = LoraTag.of(text)
        path = Path(tag.name)
        if path.suffix.lower() in SAFETENSORS or path.suffix.lower() in PICKLES:
            check_source(path)
            tag = LoraTag(path.stem, tag.weight)
            listed.append(ListedLora(name=tag.name, source=path))
        tags.append(tag)
    return settings.model_copy(update={"loras": tuple(listed)}), tuple(tags)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file, no more than one too many: a device has no end.

    Raises:
        InvalidSource: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SOURCE_BYTES_MAX + 1)
            size = max(len(data), path.stat().st_size)
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read ({error.strerror}).") from error
    check_bytes(size)
    return data


def open_engine(settings: Settings, profile: ModelProfile) -> Engine:
    """Return an engine with the model loaded.

    Raises:
        ModelError: it cannot be loaded.
    """
    with console.status(f"Loading the model {profile.name}"):
        return load_engine(settings, profile, shared=False)


def compute_like(recipe: Recipe) -> None:
    """Set the threads of the CPU to the number with which the picture of `recipe` was made."""
    import torch  # noqa: PLC0415 - it takes seconds, and the options are checked before

    if recipe.threads is not None:
        # The number is limited, because a stranger may have written the recipe.
        torch.set_num_threads(min(recipe.threads, _THREADS_MAX * (os.cpu_count() or 1)))


def make(
    engine: Engine, request: GenerationRequest, *, decoder_tile: int | None = None
) -> list[GeneratedImage]:
    """Return the pictures of `request`, and show progress on standard error.

    `decoder_tile` is as in `Engine.generate`, from a recipe.
    """
    with console.progress() as bar:
        task = bar.add_task("Denoising", total=request.steps)
        return engine.generate(
            request,
            on_progress=lambda state: bar.update(task, completed=state.step, total=state.steps),
            decoder_tile=decoder_tile,
        )


def _file_name(picture: GeneratedImage) -> str:
    """Return a file name from prompt, seed and pixels: the same name only for the same picture."""
    words = re.sub(r"[^\w]+", "-", picture.recipe.prompt.lower()).strip("-")[:_NAME_LENGTH]
    parts = (words or "picture", str(picture.recipe.seed), picture.pixels.sha256[:8])
    return "-".join(parts) + ".png"
