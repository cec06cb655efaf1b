"""Recipes inside PNG files: AUTOMATIC1111's text that every reader knows, and our own JSON.

The chunk `parameters` holds the prompt, a line `Negative prompt: ...` and one line
`Steps: 20, Sampler: DDIM, ...` (AUTOMATIC1111's `modules/infotext_utils.py`); the chunk
`imagine-bot` holds the whole recipe as JSON and is the one that is read back.
"""

from __future__ import annotations

import io
import json
from typing import Final

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from .errors import InvalidRequest, MetadataError
from .pictures import enlarged, to_image
from .request import Pixels, Recipe

RECIPE_CHUNK: Final = "imagine-bot"
PARAMETERS_CHUNK: Final = "parameters"
_SAMPLERS: Final = {"ddim": "DDIM", "lms": "LMS"}


def parameters(recipe: Recipe) -> str:
    """Return the text of the `parameters` chunk for `recipe`."""
    settings: dict[str, object] = {
        "Steps": recipe.steps,
        "Sampler": _SAMPLERS[recipe.scheduler],
        "CFG scale": recipe.guidance_scale,
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.model_sha256[:10],
        "Model": recipe.model,
    }
    if recipe.strength is not None:
        settings["Denoising strength"] = recipe.strength
    settings["Version"] = f"imagine-bot {recipe.versions.get('imagine-bot', '')}".strip()
    lines = [recipe.prompt]
    if recipe.negative_prompt:
        lines.append(f"Negative prompt: {recipe.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    text = str(value)
    if any(mark in text for mark in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text


def to_png(pixels: Pixels, recipe: Recipe, *, factor: int = 1) -> bytes:
    """Return a PNG file of `pixels` that carries `recipe`, enlarged by a whole `factor`."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(PARAMETERS_CHUNK, parameters(recipe))
    chunks.add_itxt(RECIPE_CHUNK, recipe.to_json())
    file = io.BytesIO()
    enlarged(to_image(pixels), factor).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def read_png(data: bytes) -> tuple[Pixels, Recipe, str]:
    """Return the pixels of a PNG file, the recipe in it, and its `parameters` text.

    Raises:
        MetadataError: it is no PNG, holds no recipe, or one that cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            chunks = dict(image.text)  # type: ignore[attr-defined]  # only PNG images have it
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise MetadataError("That file is not a PNG picture that can be read.") from error
    except ValueError as error:
        raise MetadataError("The text inside that PNG is too large to be a recipe.") from error
    if RECIPE_CHUNK not in chunks:
        raise MetadataError(
            "That picture holds no recipe; use a file as Imagine Bot wrote it, since uploading "
            "or editing a picture can strip its text."
        )
    return (
        Pixels(rgb.width, rgb.height, rgb.tobytes()),
        _checked(chunks[RECIPE_CHUNK]),
        chunks.get(PARAMETERS_CHUNK, ""),
    )


def _checked(text: str) -> Recipe:
    """Return the recipe in `text`, with its values checked like those of any request."""
    try:
        recipe = Recipe.from_json(text)
        stand_in = None
        if recipe.source_sha256 is not None:
            stand_in = Pixels(recipe.width, recipe.height, bytes(3 * recipe.width * recipe.height))
        recipe.request(stand_in)
    except (InvalidRequest, ValueError, TypeError, AttributeError) as error:
        raise MetadataError(f"The recipe in that picture cannot be used: {error}") from error
    return recipe
