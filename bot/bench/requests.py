"""The requests of the benchmark's users: always the same, and as mixed as on a server."""

from __future__ import annotations

from random import Random
from typing import Final

from generation.values.request import GenerationRequest

_PROMPTS: Final = (
    "rabbit face",
    "pizza on a blue background",
    "red apple",
    "a cat face",
    "octopus, green background",
    "a grinning face",
    "dog face on yellow",
    "hamburger",
)


def requests(count: int, *, side: int, steps: tuple[int, int]) -> list[GenerationRequest]:
    """Return `count` requests with different prompts, steps, guidance scales and seeds.

    All are guided, and `side` x `side` pixels large. `steps` is the range of their steps.
    """
    random = Random(0)  # noqa: S311 - the same every time
    return [
        GenerationRequest(
            prompt=_PROMPTS[number % len(_PROMPTS)],
            seed=random.randrange(2**32),
            width=side,
            height=side,
            steps=random.randint(*steps),
            guidance_scale=random.choice((2.0, 4.0, 7.5)),
            scheduler="ddim",
        )
        for number in range(count)
    ]
