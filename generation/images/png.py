"""Recipes inside PNG files: AUTOMATIC1111's text that every reader knows, and our own JSON.

- `parameters` holds the prompt, a line `Negative prompt: ...` and one line
  `Steps: 20, Sampler: DDIM, ...` (AUTOMATIC1111's `modules/infotext_utils.py`).
- `imagine-bot` holds the whole recipe as JSON. Only this chunk is read back.
- `imagine-bot-origin` names the picture and its job. The name is unique, although the numbers of
  jobs start again with another database.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from typing import Final

from PIL import Image, PngImagePlugin

from ..errors import InvalidRequest, InvalidSource, MetadataError
from ..schedulers.registry import REGISTRY, SPACINGS
from ..values.lora import Lora
from ..values.pixels import Pixels
from ..values.recipe import Recipe
from ..values.request import REFERENCES_MAX
from .chunks import ORIGIN_CHUNK, PARAMETERS_CHUNK, RECIPE_CHUNK
from .files import read_recipe
from .pillow import enlarged, read_recipe_png, to_image

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REASON_LENGTH: Final = 200


def parameters(recipe: Recipe) -> str:
    """Return the text of the `parameters` chunk for `recipe`."""
    settings: dict[str, object] = {
        "Steps": recipe.steps,
        "Sampler": REGISTRY[recipe.scheduler].a1111,
        "CFG scale": recipe.guidance_scale,
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.model_sha256[:10],
        "Model": recipe.model,
    }
    if recipe.spacing is not None:
        settings["Schedule type"] = SPACINGS[recipe.spacing].a1111
    if recipe.strength is not None:
        settings["Denoising strength"] = recipe.strength
    settings["Version"] = f"imagine-bot {recipe.versions.get('imagine-bot', '')}".strip()
    # Other programs do not know our names of emoji.
    negative = recipe.read_negative_prompt or recipe.negative_prompt
    # They do know LoRAs, by the names of their files.
    loras = [str(Lora(used["name"], used["weight"])) for used in recipe.loras or ()]
    lines = [" ".join([recipe.read_prompt or recipe.prompt, *loras])]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    text = str(value)
    if any(mark in text for mark in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text


def write_png(
    pixels: Pixels, recipe: Recipe, *, factor: int = 1, origin: str | None = None
) -> bytes:
    """Return a PNG file of `pixels` that carries `recipe`, enlarged by a whole `factor`.

    `origin` is a text that identifies this picture: see `read_origin`.
    """
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(PARAMETERS_CHUNK, parameters(recipe))
    chunks.add_itxt(RECIPE_CHUNK, recipe.to_json())
    if origin is not None:
        chunks.add_itxt(ORIGIN_CHUNK, origin)
    file = io.BytesIO()
    enlarged(to_image(pixels), factor).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def read_origin(data: bytes) -> str | None:
    """Return the `origin` in a PNG file of our own; older files have none."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        text = image.info.get(ORIGIN_CHUNK)
    return None if text is None else str(text)


def read_png_outside(data: bytes) -> tuple[Pixels, Recipe, str]:
    """Do the same as `read_png` for a file from outside, in a separate process.

    Raises:
        MetadataError: as for `read_png`, or reading takes too much time or memory.
    """
    try:
        pixels, recipe, text = read_recipe(data)
    except InvalidSource as error:
        raise MetadataError(str(error)) from error
    return pixels, _checked(recipe), text


def read_png(data: bytes) -> tuple[Pixels, Recipe, str]:
    """Return the pixels of a PNG file, the recipe in it, and its `parameters` text.

    The file has to be written by this bot; for other files use `read_png_outside`.

    Raises:
        MetadataError: the file is no PNG, holds no recipe, or its recipe cannot be read.
    """
    pixels, recipe, text = read_recipe_png(data)
    return pixels, _checked(recipe), text


def _checked(text: str) -> Recipe:
    """Return the recipe in `text`; its values are checked like those of a request."""
    try:
        recipe = Recipe.from_json(text)
        _check_values(recipe)
    except (InvalidRequest, ValueError) as error:
        reason = " ".join(str(error).split())[:_REASON_LENGTH].rstrip(".")
        raise MetadataError(f"The recipe in that picture cannot be used: {reason}.") from error
    return recipe


def _check_values(recipe: Recipe) -> None:
    # The size is checked first, so that the stand-in for the source is not too large.
    dataclasses.replace(recipe, source_sha256=None, strength=None).request(None)
    stand_in = None
    if recipe.source_sha256 is not None:
        stand_in = Pixels(recipe.width, recipe.height, bytes(3 * recipe.width * recipe.height))
    recipe.request(stand_in)
    references = recipe.reference_sha256 or ()
    if len(references) > REFERENCES_MAX:
        raise ValueError(f"it has {len(references)} references, more than {REFERENCES_MAX}")
    for name in ("model_sha256", "pixels_sha256", "source_sha256"):
        _check_hash(name, getattr(recipe, name))
    for value in references:
        _check_hash("reference_sha256", value)


def _check_hash(name: str, value: str | None) -> None:
    if value is not None and not _SHA256.fullmatch(value):
        raise ValueError(f"its {name} is no SHA-256")
