"""The measures applied to the training pictures themselves, as ceilings for a model's figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..drawings.drawing import Bytes
from ..drawings.scenes import COLOURS, Scene, Subject, arrange, compose
from ..learning.autoencoder import to_tensor
from .recognition import Recogniser, halves
from .subjects import Figure, Subjects, random_prompts, share_of


def names_ceiling(subjects: Subjects) -> list[Figure]:
    """Measure how often training pictures, and their styles, are recognised."""
    random = np.random.default_rng([9, 4])
    names, styles = [], []
    for prompt in random_prompts(subjects.album, subjects.held, subjects.cases(100), 9):
        place = prompt.things[0]
        style = str(random.choice(subjects.album.things[place].styles))
        scene = arrange(subjects.album, [place], style, _any_colour(random), random, "usual")
        match = subjects.recogniser.match(_painted(subjects, scene))
        names.append(match.thing == place)
        styles.append(match.style == style)
    return [
        share_of("ceiling: names of training pictures", names),
        share_of("ceiling: styles of training pictures", styles),
    ]


def pairs_ceiling(subjects: Subjects) -> list[Figure]:
    """Measure how often two things are recognised in a picture that shows them side by side."""
    random = np.random.default_rng([10, 4])
    hits = []
    for _ in range(subjects.cases(100)):
        style = str(random.choice(subjects.album.styles))
        drawn = [at for at, it in enumerate(subjects.album.things) if style in it.styles]
        places = [int(place) for place in random.choice(drawn, 2, replace=False)]
        scene = arrange(subjects.album, places, style, _any_colour(random), random)
        hits.append(each_right(subjects.recogniser, _painted(subjects, scene), places))
    return [share_of("ceiling: pairs of training pictures, both", [all(pair) for pair in hits])]


def styles_baseline(subjects: Subjects) -> list[Figure]:
    """Measure how well a thing's picture in one style predicts its held-out picture in the other.

    The figure is how often the held-out picture is the nearest, among all pictures of its style, to
    the picture that training showed. A model can learn from other things how the styles differ, but
    not what else an artist drew differently.
    """
    held = list(subjects.held.styles.items())
    right = []
    for place, style in held[: subjects.cases(len(held))]:
        [shown] = [name for name in subjects.album.things[place].styles if name != style]
        picture = compose(subjects.album, Scene((Subject(place),), shown, "white"))
        right.append(subjects.recogniser.match(picture, style).thing == place)
    return [share_of("baseline: held-out styles told by the other", right)]


def each_right(recogniser: Recogniser, picture: Bytes, places: Iterable[int]) -> list[bool]:
    """Return whether the left and the right half of `picture` show these things."""
    found = [recogniser.match(half).thing for half in halves(picture)]
    return [thing == place for thing, place in zip(found, places, strict=True)]


def _any_colour(random: np.random.Generator) -> str:
    return str(random.choice(list(COLOURS)))


def _painted(subjects: Subjects, scene: Scene) -> Bytes:
    return through(subjects.autoencoder, compose(subjects.album, scene))


@torch.inference_mode()
def through(autoencoder: Any, picture: Bytes) -> Bytes:
    """Return `picture` as the autoencoder reconstructs it."""
    placed = to_tensor(picture[None]).to(autoencoder.device, autoencoder.dtype)
    back = autoencoder.decode(autoencoder.encode(placed).latent_dist.mean).sample
    unit = (back[0].float().cpu().clamp(-1, 1) + 1) * 127.5
    found: Bytes = unit.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return found
