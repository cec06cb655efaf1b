"""Small sample values: requests, pictures and finished images."""

from __future__ import annotations

import random
from typing import Any

from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage, Recipe
from generation.values.request import GenerationRequest
from storage.pictures.plain_png import encode_png
from storage.records import JobKind, NewJob

SIZE = 32


def pixels(seed: int) -> Pixels:
    return Pixels(SIZE, SIZE, random.Random(seed).randbytes(3 * SIZE * SIZE))


def request(prompt: str = "a cute rabbit, octane render", **values: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {
        "seed": 42,
        "width": SIZE,
        "height": SIZE,
        "steps": 20,
        "guidance_scale": 7.5,
        "scheduler": "lms",
    }
    return GenerationRequest(prompt=prompt, **{**defaults, **values})


def new_job(prompt: str = "a cute rabbit, octane render", **values: Any) -> NewJob:
    defaults: dict[str, Any] = {
        "kind": JobKind.IMAGINE,
        "user_id": 1,
        "guild_id": 2,
        "channel_id": 3,
        "request": request(prompt),
    }
    return NewJob(**{**defaults, **values})


def recipe(request: GenerationRequest, index: int, result: Pixels) -> Recipe:
    return Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed_of(index),
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        scheduler=request.scheduler,
        scheduler_settings={"beta_start": 0.00085},
        model="starter",
        model_sha256="0" * 64,
        dtype="float32",
        device="cpu",
        source_sha256=request.source.sha256 if request.source else None,
        strength=request.strength,
        unread_prompt="",
        versions={"torch": "2.6.0"},
        pixels_sha256=result.sha256,
    )


def finished(
    request: GenerationRequest, *, first_seed: int | None = None
) -> list[tuple[GeneratedImage, bytes]]:
    """Return the images of a request; they depend only on the seed."""
    first = request.seed if first_seed is None else first_seed
    results = [pixels(first + index) for index in range(request.count)]
    return [
        (
            GeneratedImage(index=index, pixels=result, recipe=recipe(request, index, result)),
            encode_png(result),
        )
        for index, result in enumerate(results)
    ]
