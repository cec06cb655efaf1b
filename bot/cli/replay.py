"""`imagine-bot replay`: make a picture again from its recipe and compare every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from generation.catalog.memory.savings import Quantize
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidSource, ModelError
from generation.images.files import read_source
from generation.images.pillow import enlarged, reference_pixels, to_image, to_pixels
from generation.images.png import parameters, read_png, read_png_outside
from generation.models.loading import model_sha256
from generation.models.locate import STARTER
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from storage.archive import Archive

from .. import console
from ..config import Settings, load_settings
from ..errors import BotError, MissingInput
from ..requests.models import look_at
from .generate import compute_like, make, open_engine, read_file, with_loras

# These may differ between two machines although nobody altered the recipe.
_CIRCUMSTANCES = (
    "model_sha256",
    "base_sha256",
    "quantization",
    "dtype",
    "device",
    "threads",
    "compiled",
    "scheduler_settings",
    "versions",
)


@dataclass(frozen=True, slots=True)
class Original:
    """A picture to make again: its name, its pixels and its recipe.

    `parameters` is the recipe in AUTOMATIC1111's format, from the same file. `model` is what its
    job named, if the picture is in the bot's store.
    """

    name: str
    pixels: Pixels
    recipe: Recipe
    parameters: str
    model: str | None = None


@console.one_sentence
def replay_picture(
    picture: str,
    *,
    image: Path | None,
    references: Sequence[Path],
    model: str | None,
    base: str | None,
    data: Path | None,
    config: Path | None,
    loras: Sequence[Path] = (),
) -> int:
    """Make a picture or the pictures of a job again; return 0 only if every pixel is the same."""
    settings = load_settings(config, data=data)
    settings, _ = with_loras(settings, [str(path.resolve()) for path in loras])
    originals = _originals(picture, settings)
    profile = _like(originals[0].recipe, _model_of(originals[0], settings, model, base))
    requests = [
        original.recipe.request(
            _source_of(original.recipe, settings, image),
            _references_of(original.recipe, settings, references, profile.size_multiple),
        )
        for original in originals
    ]
    is_compiled = bool(originals[0].recipe.compiled)
    engine = open_engine(settings.model_copy(update={"compile": is_compiled}), profile)
    same = True
    for original, request in zip(originals, requests, strict=True):
        compute_like(original.recipe)
        made = make(engine, request, decoder_tile=original.recipe.decoder_tile or 0)[0]
        differences = list(_differences(original, made.pixels, made.recipe))
        if differences:
            same = False
            console.say(f"{original.name}: not the same.")
            for difference in differences:
                console.say(f"  {difference}")
        else:
            console.say(
                f"{original.name}: the same, every pixel of {made.pixels.width}x"
                f"{made.pixels.height} (seed {made.recipe.seed})."
            )
    return 0 if same else 1


def _originals(picture: str, settings: Settings) -> list[Original]:
    if not picture.isdecimal():
        path = Path(picture)
        pixels, recipe, text = read_png_outside(read_file(path))
        return [Original(path.name, pixels, recipe, text)]
    with Archive(settings.data) as archive:
        images = archive.images(int(picture))
        if not images:
            raise BotError(
                f"There are no pictures of a job {picture} in {settings.data}; name the bot's "
                "folder with --data."
            )
        originals, model = [], archive.model_of(int(picture))
        for image in images:
            pixels, _, text = read_png(archive.read(image))
            name = f"job {picture}, picture {image.index + 1}"
            originals.append(Original(name, pixels, image.recipe, text, model))
        return originals


def _model_of(
    original: Original, settings: Settings, named: str | None, base: str | None
) -> ModelProfile:
    """Return the model named on the command line, or else a listed or the bundled one if it fits.

    The recipe may come from a stranger, so no model is searched or downloaded by its name there.

    Raises:
        MissingInput: the picture was made by another model.
    """
    if named is not None:
        return console.locate_model(settings.named(named, base))
    listed = _listed_model(original, settings)
    if listed is not None:
        return listed
    recipe = original.recipe
    if recipe.model == STARTER:
        return console.locate_model(settings.named(STARTER))
    raise MissingInput(
        f"This picture was made by a model called {recipe.model!r}; name that one with --model, as "
        "a folder, a .safetensors file or a hub id."
    )


def _listed_model(original: Original, settings: Settings) -> ModelProfile | None:
    """Return the listed model whose weights made a picture, or else one of the same name.

    The files of several models may have the same name, and the operator may have renamed files. The
    model that the job named is compared first, then the models with the recipe's name.
    """
    recipe, here = original.recipe, dict[str, ModelProfile]()
    for listed in settings.listed:
        with suppress(ModelError):
            here[listed.name] = look_at(listed)
    of_job = [profile for name, profile in here.items() if name == original.model]
    of_name = [profile for profile in here.values() if profile.name == recipe.model]
    likely = of_job + of_name
    for profile in (*likely, *here.values()):
        with suppress(ModelError, MissingInput):
            if model_sha256(_like(recipe, profile)) == recipe.model_sha256:
                return profile
    return next(iter(likely), None)


def _like(recipe: Recipe, profile: ModelProfile) -> ModelProfile:
    """Return the profile with the weights stored as those were that made the picture.

    Raises:
        MissingInput: these weights are in a file of their own, which was not named.
    """
    kinds = recipe.quantization.split(" + ") if recipe.quantization else []
    in_file = [kind for kind in kinds if kind != "int8"]
    if in_file and profile.denoiser is None:
        raise MissingInput(
            f"This picture was made with weights in {in_file[0]}; name that .gguf file with "
            "--model, and the folder or hub id of the other parts with --base."
        )
    quantize: Quantize | None = "int8" if "int8" in kinds else None
    return replace(profile, savings=replace(profile.savings, quantize=quantize))


def _source_of(recipe: Recipe, settings: Settings, image: Path | None) -> Pixels | None:
    """Return the picture that the recipe started from, from `image` or from the bot's store."""
    if recipe.source_sha256 is None:
        return None
    if image is not None:
        for source in _read_as(read_source(read_file(image)), recipe.width, recipe.height):
            if source.sha256 == recipe.source_sha256:
                return source
        raise InvalidSource(f"{image} is not the picture that this one started from.")
    if (stored := _stored(recipe.source_sha256, settings)) is not None:
        return stored
    raise MissingInput(
        "This picture was made from another; name that one with --image, or the bot's folder "
        "with --data."
    )


def _references_of(
    recipe: Recipe, settings: Settings, files: Sequence[Path], multiple: int
) -> list[Pixels]:
    """Return the references of the recipe, from `files` in any order or from the bot's store."""
    hashes = recipe.reference_sha256 or ()
    read = [reference_pixels(read_source(read_file(file)), multiple) for file in files]
    known = {picture.sha256: picture for picture in read}
    for file, picture in zip(files, read, strict=True):
        if picture.sha256 not in hashes:
            raise InvalidSource(f"{file} is not a picture that this one was edited from.")
    for sha256 in hashes:
        stored = None if sha256 in known else _stored(sha256, settings)
        if stored is not None:
            known[sha256] = stored
    if missing := sum(sha256 not in known for sha256 in hashes):
        raise MissingInput(
            f"This picture was edited from others, of which {missing} cannot be found; name each "
            "with --reference, or the bot's folder with --data."
        )
    return [known[sha256] for sha256 in hashes]


def _stored(sha256: str, settings: Settings) -> Pixels | None:
    """Return the picture with this hash of pixels from the bot's store, if it is there."""
    if not Archive.exists(settings.data):
        return None
    with Archive(settings.data) as archive:
        return archive.source_pixels(sha256)


def _read_as(image: Image.Image, width: int, height: int) -> Iterator[Pixels]:
    """Yield the sources of this size that the bot may have taken from `image`.

    If `image` is one of the bot's own pictures, enlarged to be shown, the bot took the original.
    """
    yield to_pixels(image, width, height)
    factor, rest = divmod(image.width, width)
    if not rest and factor > 1 and image.height == factor * height:
        yield to_pixels(image.resize((width, height), Image.Resampling.NEAREST), width, height)


def _differences(original: Original, made: Pixels, recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each difference; none if the recipe makes exactly this picture."""
    yield from _disagreement(original)
    comparable = _at_size_of(original.pixels, made)
    if comparable is None:
        yield (
            f"the file is {original.pixels.width}x{original.pixels.height}, the recipe makes "
            f"{made.width}x{made.height}"
        )
        return
    difference = np.abs(_array(original.pixels) - _array(comparable)).max(axis=2)
    if changed := int(np.count_nonzero(difference)):
        yield (
            f"{changed:,} of {difference.size:,} pixels differ, by up to {difference.max()} of 255"
        )
        yield from _circumstances(original.recipe, recipe)
    elif original.recipe.pixels_sha256 != made.sha256:
        yield "the pixels are the same, but the hash in the recipe is of other pixels"


def _disagreement(original: Original) -> Iterator[str]:
    """Yield where the two texts of the file contradict each other because one was altered."""
    said, meant = original.parameters.splitlines(), parameters(original.recipe).splitlines()
    if original.parameters and said != meant:
        for line, other in zip(said, meant, strict=False):
            if line != other:
                said_here, meant_here = line.split(", "), other.split(", ")
                texts = [
                    ", ".join(part for part in mine if part not in theirs)
                    for mine, theirs in ((said_here, meant_here), (meant_here, said_here))
                ]
                yield f"the file's parameters say {texts[0]!r}, its recipe {texts[1]!r}"
        if len(said) != len(meant):
            yield "the file's parameters and its recipe have different lines"


def _circumstances(original: Recipe, made: Recipe) -> Iterator[str]:
    old, new = asdict(original), asdict(made)
    for name in _CIRCUMSTANCES:
        if old[name] != new[name]:
            yield f"{name.replace('_', ' ')}: {old[name]} then, {new[name]} now"


def _at_size_of(file: Pixels, made: Pixels) -> Pixels | None:
    """Return `made` at the size of `file`, which may be a whole multiple, as in Discord."""
    factor, rest = divmod(file.width, made.width)
    if rest or not factor or file.height != factor * made.height:
        return None
    image = enlarged(to_image(made), factor)
    return Pixels(image.width, image.height, image.tobytes())


def _array(pixels: Pixels) -> npt.NDArray[np.int16]:
    flat = np.frombuffer(pixels.rgb, dtype=np.uint8).astype(np.int16)
    return flat.reshape(pixels.height, pixels.width, 3)
