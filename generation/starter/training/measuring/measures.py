"""The measures of a starter model; each has its own prompts and seeds.

Training has seen none of the seeds of scenes and prompts. Some measures also use combinations of
words that training has not seen.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from ....values.pixels import Pixels
from ..drawings.drawing import Album, Bytes
from ..drawings.scenes import COLOURS, HeldOut
from ..drawings.things import STYLES
from ..learning.autoencoder import held_out_psnr
from ..learning.captions import with_article
from .ceilings import each_right, names_ceiling, pairs_ceiling, styles_baseline
from .recognition import Match, border_colour
from .subjects import Figure, Prompt, Subjects, random_prompts, share_of

STRENGTHS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
GUIDANCES: Final = (1.0, 2.0, 4.0, 7.5)
_FIRST_SEED: Final = 3_000_000_000
_SEEDS_OF_A_PROMPT: Final = 8
_SHOWN: Final = 100

Measure = Callable[[Subjects], list[Figure]]


def following(subjects: Subjects) -> list[Figure]:
    """Measure names, styles and colours for combinations that training has seen."""
    prompts = random_prompts(subjects.album, subjects.held, subjects.cases(300), 1)
    made = subjects.make([prompt.text for prompt in prompts], _FIRST_SEED)
    found = [subjects.recogniser.match(picture) for picture in made]
    return [
        share_of("name", [_named(p, m) for p, m in zip(prompts, found, strict=True)], 0.95),
        share_of(
            "style",
            [p.style == m.style for p, m in zip(prompts, found, strict=True) if p.style],
            0.97,
        ),
        share_of("colour", _colours_right(prompts, made), 0.99),
    ]


def _named(prompt: Prompt, match: Match) -> bool:
    return match.thing in prompt.things


def _colours_right(prompts: Sequence[Prompt], made: Bytes) -> list[bool]:
    return [
        border_colour(picture) == prompt.colour
        for prompt, picture in zip(prompts, made, strict=True)
        if prompt.colour
    ]


def _matches(subjects: Subjects, prompts: Sequence[Prompt], seed: int) -> list[Match]:
    made = subjects.make([prompt.text for prompt in prompts], seed)
    return [subjects.recogniser.match(picture) for picture in made]


def held_out_colours(subjects: Subjects) -> list[Figure]:
    """Measure things on their held-out colour; both have to be right."""
    random = np.random.default_rng([2, 4])
    album = subjects.album
    places = random.permutation(len(album.things))[: subjects.cases(100)]
    prompts = [
        Prompt(
            f"{with_article(album.things[place].name)} on a "
            f"{subjects.held.colours[place]} background",
            (int(place),),
            colour=subjects.held.colours[place],
        )
        for place in places
    ]
    made = subjects.make([prompt.text for prompt in prompts], _FIRST_SEED + 10_000)
    right = [
        _named(prompt, subjects.recogniser.match(picture)) and ok
        for prompt, picture, ok in zip(prompts, made, _colours_right(prompts, made), strict=True)
    ]
    return [share_of("held-out name x colour", right, 0.95)]


def held_out_styles(subjects: Subjects) -> list[Figure]:
    """Measure things in their held-out style."""
    held = list(subjects.held.styles.items())[: subjects.cases(len(subjects.held.styles))]
    prompts = [
        Prompt(f"{with_article(subjects.album.things[place].name)}, {style} style", (place,), style)
        for place, style in held
    ]
    found = _matches(subjects, prompts, _FIRST_SEED + 20_000)
    names = [_named(p, m) for p, m in zip(prompts, found, strict=True)]
    styles = [p.style == m.style for p, m in zip(prompts, found, strict=True)]
    both = [name and style for name, style in zip(names, styles, strict=True)]
    return [
        share_of("held-out name x style", both, 0.6),
        share_of("held-out name x style: the name", names),
        share_of("held-out name x style: the style", styles),
    ]


def keywords(subjects: Subjects) -> list[Figure]:
    """Measure keywords instead of names, in the style in which training never used them.

    Every thing that has the keyword is right.
    """
    random = np.random.default_rng([3, 4])
    usable = keywords_held_out(subjects.album, subjects.held)
    prompts = []
    for place in random.permutation(list(usable))[: subjects.cases(100)]:
        keyword = str(random.choice(list(usable[place])))
        style = subjects.held.keyword_styles[place]
        text = f"{with_article(keyword)}, {style} style"
        prompts.append(Prompt(text, usable[place][keyword], style))
    found = _matches(subjects, prompts, _FIRST_SEED + 30_000)
    right = [_named(p, m) for p, m in zip(prompts, found, strict=True)]
    styles = [p.style == m.style for p, m in zip(prompts, found, strict=True)]
    return [share_of("keywords", right, 0.8), share_of("keywords: the style", styles)]


def keywords_held_out(album: Album, held: HeldOut) -> dict[int, dict[str, tuple[int, ...]]]:
    """Return, by thing, the keywords that training used, but not in the thing's held-out style.

    Each keyword comes with all things that have it. None of them may use it in that style.
    """
    owners: dict[str, list[int]] = {}
    for place, thing in enumerate(album.things):
        for keyword in thing.keywords:
            owners.setdefault(keyword, []).append(place)

    def is_used(keyword: str, style: str) -> bool:
        return any(
            style in album.things[owner].styles
            and style not in held.styles_of(owner, by_keyword=True)
            for owner in owners[keyword]
        )

    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for place, thing in enumerate(album.things):
        style = held.keyword_styles[place]
        if style in thing.styles and held.styles.get(place) != style:
            for keyword in thing.keywords:
                # Training used it in another style. Otherwise it would have no meaning.
                others = (other for other in STYLES if other != style)
                if not is_used(keyword, style) and any(is_used(keyword, it) for it in others):
                    found.setdefault(place, {})[keyword] = tuple(owners[keyword])
    return found


def pairs(subjects: Subjects) -> list[Figure]:
    """Measure two things side by side; each has to be in its place."""
    random = np.random.default_rng([4, 4])
    album = subjects.album
    chosen = [random.choice(len(album.things), 2, False) for _ in range(subjects.cases(100))]
    texts = [
        " next to ".join(with_article(album.things[place].name) for place in places)
        for places in chosen
    ]
    made = subjects.make(texts, _FIRST_SEED + 40_000)
    hits = [
        each_right(subjects.recogniser, picture, places)
        for places, picture in zip(chosen, made, strict=True)
    ]
    return [
        share_of("pairs: both right", [all(pair) for pair in hits], 0.7),
        share_of("pairs: at least one", [any(pair) for pair in hits]),
    ]


def seeds(subjects: Subjects) -> list[Figure]:
    """Measure the distance between pictures of one prompt, relative to that of different things.

    One figure is for names alone. The other is for prompts with style and colour, whose pictures
    differ only in how the thing is drawn.
    """
    places = [
        prompt.things[0]
        for prompt in random_prompts(subjects.album, subjects.held, subjects.cases(20), 5)
    ]
    names = [with_article(subjects.album.things[place].name) for place in places]
    made, ratio = _spread(subjects, names, 50_000)
    found = [subjects.recogniser.match(picture).thing for picture in made]
    shown = [place for place in places for _ in range(_SEEDS_OF_A_PROMPT)]
    right = [thing == place for thing, place in zip(found, shown, strict=True)]
    full = [f"{name}, noto style on a white background" for name in names]
    others, named_ratio = _spread(subjects, full[: subjects.cases(10)], 55_000)
    return [
        Figure("seeds: distance within a prompt by that between things", ratio, len(made), 1 / 3),
        share_of("seeds: name", right, 0.95),
        Figure("seeds: the same with style and colour named", named_ratio, len(others)),
    ]


def _spread(subjects: Subjects, texts: Sequence[str], seed: int) -> tuple[Bytes, float]:
    """Return pictures, several of each text, and their distance within texts by that between."""
    repeated = [text for text in texts for _ in range(_SEEDS_OF_A_PROMPT)]
    made = subjects.make(repeated, _FIRST_SEED + seed)
    latents = subjects.recogniser.latents(list(made))
    distances = torch.cdist(latents, latents)
    owner = torch.arange(len(repeated)) // _SEEDS_OF_A_PROMPT
    same = owner[:, None] == owner[None, :]
    itself = torch.eye(len(repeated), dtype=torch.bool)
    return made, float(distances[same & ~itself].mean() / distances[~same].mean())


def variations(subjects: Subjects) -> list[Figure]:
    """Measure the distance of variations from their source, which must rise with the strength."""
    prompts = random_prompts(subjects.album, subjects.held, subjects.cases(50), 6)
    made = subjects.make([prompt.text for prompt in prompts], _FIRST_SEED + 60_000)
    latents = subjects.recogniser.latents(list(made))
    figures, means = [], []
    for strength in STRENGTHS:
        wanted = [
            replace(
                subjects.request(prompt.text, _FIRST_SEED + 61_000 + k),
                source=from_array(picture),
                strength=strength,
            )
            for k, (prompt, picture) in enumerate(zip(prompts, made, strict=True))
        ]
        varied = subjects.painter.paint(wanted)
        away = (subjects.recogniser.latents(list(varied)) - latents).square().sum(1).sqrt()
        means.append(float(away.mean()))
        figures.append(Figure(f"variation {strength}: distance", means[-1], len(made)))
    rises = all(low < high for low, high in itertools.pairwise(means))
    return [*figures, Figure("variations: rise with the strength", float(rises), len(made), 1.0)]


def from_array(picture: Bytes) -> Pixels:
    """Return an array [height, width, 3] as Pixels."""
    height, width, _ = picture.shape
    return Pixels(width, height, picture.tobytes())


def negatives(subjects: Subjects) -> list[Figure]:
    """Measure the share of a colour without, and with, a negative prompt that names it."""
    prompts = random_prompts(subjects.album, subjects.held, subjects.cases(10), 7)
    names = [with_article(subjects.album.things[prompt.things[0]].name) for prompt in prompts]
    cases = [(name, colour) for name in names for colour in COLOURS]
    wanted = [
        subjects.request(name, _FIRST_SEED + 70_000 + place, negative=negative)
        for place, (name, colour) in enumerate(cases)
        for negative in ("", f"{colour} background")
    ]
    borders = [border_colour(picture) for picture in subjects.painter.paint(wanted)]
    without = [found == colour for found, (_, colour) in zip(borders[::2], cases, strict=True)]
    against = [found == colour for found, (_, colour) in zip(borders[1::2], cases, strict=True)]
    before, after = share_of("", without), share_of("", against)
    return [
        replace(before, name="negative prompt: a colour's share without it"),
        replace(after, name="negative prompt: a colour's share with it"),
        Figure("negative prompt: lowers", float(after.value < before.value), len(cases), 1.0),
    ]


def adherence(subjects: Subjects) -> list[Figure]:
    """Measure names at several guidance scales."""
    prompts = random_prompts(subjects.album, subjects.held, subjects.cases(_SHOWN), 8)
    figures = []
    for guidance in GUIDANCES:
        made = subjects.make(
            [prompt.text for prompt in prompts], _FIRST_SEED + 80_000, guidance=guidance
        )
        right = [
            _named(prompt, subjects.recogniser.match(picture))
            for prompt, picture in zip(prompts, made, strict=True)
        ]
        figures.append(share_of(f"guidance {guidance:g}: name", right))
    return figures


def fidelity(subjects: Subjects) -> list[Figure]:
    """Measure the autoencoder on pictures of things that it was not trained on, in dB."""
    count = subjects.cases(200)
    held, seen = held_out_psnr(subjects.autoencoder, subjects.album, count)
    return [
        Figure("PSNR of held-out pictures, dB", held, count, 31.0),
        Figure("PSNR of seen pictures, dB", seen, count),
    ]


def speed(subjects: Subjects) -> list[Figure]:
    """Measure the seconds that one picture of 25 steps takes, alone."""
    wanted = subjects.request("a rabbit face", _FIRST_SEED + 90_000, steps=25)
    subjects.painter.paint([wanted])
    begun = time.perf_counter()
    subjects.painter.paint([wanted])
    return [Figure("seconds a picture of 25 steps", time.perf_counter() - begun, 1)]


MEASURES: Final[Mapping[str, Measure]] = {
    "fidelity": fidelity,
    "names-ceiling": names_ceiling,
    "pairs-ceiling": pairs_ceiling,
    "styles-baseline": styles_baseline,
    "following": following,
    "colours": held_out_colours,
    "styles": held_out_styles,
    "keywords": keywords,
    "pairs": pairs,
    "seeds": seeds,
    "variations": variations,
    "negatives": negatives,
    "adherence": adherence,
    "speed": speed,
}
