"""Every measure on models of which one knows what it has to find."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from generation.starter.evaluate import as_table
from generation.starter.training.drawings.drawing import EDGE, Bytes
from generation.starter.training.drawings.scenes import (
    COLOURS,
    SIZES,
    Scene,
    Size,
    Subject,
    arrange,
    compose,
    draw_scene,
    hold_out,
)
from generation.starter.training.measuring import measures
from generation.starter.training.measuring.recognition import (
    Recogniser,
    border_colour,
    drawn_size,
    foreground,
    framed,
    halves,
)
from generation.starter.training.measuring.subjects import Figure, Subjects, random_prompts
from generation.values.request import GenerationRequest

from .album import STYLES, album

ALBUM = album()
HELD = hold_out(ALBUM.things, STYLES, 0)
BALL, BOX, BAR, POST, MOON = range(5)


class Shrinking:
    """An autoencoder whose latents are the picture, four times smaller."""

    device = torch.device("cpu")
    dtype = torch.float32

    def encode(self, pictures: torch.Tensor) -> Any:
        small = torch.nn.functional.avg_pool2d(pictures, 4)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=small))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=torch.nn.functional.interpolate(latents, scale_factor=4))


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(ALBUM, Shrinking())


class Reader:
    """Paints what the prompt says, and lets the seed decide the rest."""

    edge = EDGE

    def paint(self, requests: Sequence[GenerationRequest]) -> Bytes:
        return np.stack([self.one(request) for request in requests])

    def one(self, request: GenerationRequest) -> Bytes:
        source = request.source
        if source is not None and request.strength is not None:
            old = np.frombuffer(source.rgb, np.uint8).reshape(EDGE, EDGE, 3)
            new = self.scene(request)
            return (old + request.strength * (new.astype(float) - old)).astype(np.uint8)
        return self.scene(request)

    def scene(self, request: GenerationRequest) -> Bytes:
        text, random = request.prompt, np.random.default_rng(request.seed)
        found = {
            text.index(word): place
            for place, thing in enumerate(ALBUM.things)
            for word in (thing.name, *thing.keywords)
            if word in text
        }
        allowed = [name for name in COLOURS if name not in request.negative_prompt]
        named = (name for name in COLOURS if f"on a {name} background" in text)
        colour = next(named, str(random.choice(allowed)))
        style = next((name for name in STYLES if f"{name} style" in text), "noto")
        places = [found[start] for start in sorted(found)]
        return compose(ALBUM, arrange(ALBUM, places, style, colour, random))


class Deaf(Reader):
    """Paints the same ball on white whatever it is asked."""

    def scene(self, request: GenerationRequest) -> Bytes:
        return compose(ALBUM, Scene((Subject(BALL),), "noto", "white"))


def subjects(painter: Reader, recogniser: Recogniser) -> Subjects:
    return Subjects(painter, Shrinking(), ALBUM, HELD, recogniser, guidance=4.0, share=0.06)


def figures(name: str, painter: Reader, recogniser: Recogniser) -> dict[str, Figure]:
    found = measures.MEASURES[name](subjects(painter, recogniser))
    return {figure.name: figure for figure in found}


class TestRecognition:
    def test_a_thing_is_known_wherever_and_however_it_lies(self, recogniser: Recogniser) -> None:
        scenes = [draw_scene(ALBUM, None, 21, number) for number in range(60)]
        alone = [scene for scene in scenes if len(scene.subjects) == 1]
        assert {scene.size for scene in alone} == {"tiny", "usual", "huge"}
        for scene in alone:
            match = recogniser.match(compose(ALBUM, scene))
            assert (match.thing, match.style) == (scene.subjects[0].thing, scene.style)

    @pytest.mark.parametrize("colour", COLOURS)
    def test_the_border_has_the_colour_of_the_background(self, colour: str) -> None:
        random = np.random.default_rng(0)
        scene = arrange(ALBUM, [MOON], "noto", colour, random, "huge")
        assert border_colour(compose(ALBUM, scene)) == colour

    def test_what_is_framed_fills_the_frame_in_the_middle(self) -> None:
        tiny = compose(ALBUM, Scene((Subject(BAR, extent=0.3, x=0.3, y=0.7),), "noto", "white"))
        rows, columns = np.nonzero(foreground(framed(tiny)))
        assert columns.max() - columns.min() == pytest.approx(0.9 * EDGE, abs=3)
        assert (columns.max() + columns.min()) / 2 == pytest.approx(EDGE / 2, abs=2)
        assert (rows.max() + rows.min()) / 2 == pytest.approx(EDGE / 2, abs=2)

    def test_an_empty_picture_is_framed_as_it_is(self) -> None:
        empty = np.full((EDGE, EDGE, 3), 128, np.uint8)
        assert np.array_equal(framed(empty), empty)
        assert drawn_size(empty) == "usual"

    @pytest.mark.parametrize("size", ["half", "usual"])
    def test_what_is_small_is_compared_with_what_is_as_small(
        self, size: Size, recogniser: Recogniser
    ) -> None:
        # A shift by whole pixels, or no two pictures would be the same.
        subject = Subject(MOON, extent=sum(SIZES[size]) / 2, x=0.5 - 8 / EDGE)
        picture = compose(ALBUM, Scene((subject,), "flat", "blue", size))
        assert drawn_size(picture) == size
        assert recogniser.match(picture).distance == pytest.approx(0, abs=1e-3)

    def test_two_things_are_parted(self, recogniser: Recogniser) -> None:
        scene = arrange(ALBUM, [MOON, BOX], "flat", "blue", np.random.default_rng(1))
        left, right = halves(compose(ALBUM, scene))
        assert recogniser.match(left).thing == MOON
        assert recogniser.match(right).thing == BOX

    def test_among_pictures_of_a_style_the_nearest_is_of_that_style(
        self, recogniser: Recogniser
    ) -> None:
        for style in STYLES:
            for place in range(len(ALBUM.things)):
                picture = compose(ALBUM, Scene((Subject(place),), "noto", "white"))
                assert recogniser.match(picture, style).style == style
        assert recogniser.match(compose(ALBUM, Scene((Subject(BOX),), "noto", "red"))).thing == BOX


PERFECT = {
    "following": ("name", "style", "colour"),
    "colours": ("held-out name x colour",),
    "styles": (
        "held-out name x style",
        "held-out name x style: the name",
        "held-out name x style: the style",
    ),
    "keywords": ("keywords", "keywords: the style"),
    "pairs": ("pairs: both right", "pairs: at least one"),
    "adherence": ("guidance 1: name", "guidance 7.5: name"),
}


CEILINGS = ("names-ceiling", "pairs-ceiling", "styles-baseline")


class TestMeasures:
    @pytest.mark.parametrize("name", CEILINGS)
    def test_what_training_shows_is_known_with_any_painter(
        self, name: str, recogniser: Recogniser
    ) -> None:
        found = figures(name, Deaf(), recogniser)
        assert {figure.value for figure in found.values()} == {1.0}

    def test_where_styles_share_no_picture_nothing_tells_one_by_the_other(self) -> None:
        swapped = dataclasses.replace(HELD, styles={BALL: "flat"})
        mixed = album()
        ball, box = (mixed.index[mixed.things[place].name, "flat"] for place in (BALL, BOX))
        mixed.pictures[[ball, box]] = mixed.pictures[[box, ball]]
        painted = Subjects(
            Deaf(), Shrinking(), mixed, swapped, Recogniser(mixed, Shrinking()), guidance=4.0
        )
        [figure] = measures.MEASURES["styles-baseline"](painted)
        assert (figure.value, figure.count) == (0.0, 1)

    @pytest.mark.parametrize("name", PERFECT)
    def test_who_paints_what_is_asked_gets_full_marks(
        self, name: str, recogniser: Recogniser
    ) -> None:
        found = figures(name, Reader(), recogniser)
        assert {key: found[key].value for key in PERFECT[name]} == dict.fromkeys(PERFECT[name], 1.0)
        assert all(figure.reached in {True, None} for figure in found.values())

    def test_who_does_not_listen_gets_what_chance_gives(self, recogniser: Recogniser) -> None:
        found = figures("following", Deaf(), recogniser)
        assert found["name"].value == pytest.approx(1 / 5, abs=0.15)
        assert found["colour"].value == pytest.approx(1 / 10, abs=0.15)
        assert [figure.reached for figure in found.values()] == [False, False, False]
        assert figures("pairs", Deaf(), recogniser)["pairs: both right"].value < 0.2

    def test_who_paints_the_style_that_he_knows_has_not_painted_the_other(
        self, recogniser: Recogniser
    ) -> None:
        class Stubborn(Reader):
            def scene(self, request: GenerationRequest) -> Bytes:
                other = {"noto": "flat", "flat": "noto"}
                prompt = re.sub("noto|flat", lambda found: other[found[0]], request.prompt)
                return super().scene(dataclasses.replace(request, prompt=prompt))

        found = figures("styles", Stubborn(), recogniser)
        assert found["held-out name x style: the name"].value == 1.0
        assert found["held-out name x style"].value == 0.0

    def test_no_keyword_is_measured_in_a_style_that_training_used_it_in(self) -> None:
        things = list(ALBUM.things)
        things[BOX] = dataclasses.replace(things[BOX], keywords=("crate", "wood"))
        things[POST] = dataclasses.replace(things[POST], keywords=("pole", "wood"))
        shared = dataclasses.replace(ALBUM, things=tuple(things))
        styles = ["noto"] * len(things)
        styles[BOX], styles[POST] = "flat", "noto"
        held = dataclasses.replace(HELD, styles={}, keyword_styles=tuple(styles))
        found = measures.keywords_held_out(shared, held)
        assert found[BOX] == {"crate": (BOX,)}
        assert found[POST] == {"pole": (POST,)}
        styles[POST] = "flat"
        held = dataclasses.replace(held, keyword_styles=tuple(styles))
        assert measures.keywords_held_out(shared, held)[BOX] == {
            "crate": (BOX,),
            "wood": (BOX, POST),
        }

    def test_who_always_paints_the_same_fails_at_seeds(self, recogniser: Recogniser) -> None:
        name = "seeds: distance within a prompt by that between things"

        class OnePicture(Reader):
            def scene(self, request: GenerationRequest) -> Bytes:
                return super().scene(dataclasses.replace(request, seed=1))

        class OneThing(OnePicture):
            """Changes the background alone."""

            def scene(self, request: GenerationRequest) -> Bytes:
                text, colours = request.prompt, list(COLOURS)
                if "background" not in text:
                    text += f" on a {colours[request.seed % len(colours)]} background"
                return super().scene(dataclasses.replace(request, prompt=text))

        named = "seeds: the same with style and colour named"
        assert figures("seeds", OnePicture(), recogniser)[name].value == pytest.approx(0, abs=1e-2)
        fixed = figures("seeds", OneThing(), recogniser)
        assert fixed[name].value > 1 / 3
        assert fixed[named].value == pytest.approx(0, abs=1e-2)
        free = figures("seeds", Reader(), recogniser)
        assert free[name].value > 1 / 3
        assert free[named].value > 0.01
        assert free["seeds: name"].value == 1.0

    def test_variations_that_go_farther_with_the_strength_are_seen_to(
        self, recogniser: Recogniser
    ) -> None:
        name = "variations: rise with the strength"
        assert figures("variations", Reader(), recogniser)[name].value == 1.0
        assert figures("variations", Deaf(), recogniser)[name].value == 0.0

    def test_a_negative_prompt_that_works_is_told_from_one_that_does_not(
        self, recogniser: Recogniser
    ) -> None:
        name = "negative prompt: lowers"
        assert figures("negatives", Reader(), recogniser)[name].value == 1.0
        assert figures("negatives", Deaf(), recogniser)[name].value == 0.0

    def test_the_prompts_that_are_measured_hold_nothing_held_out(self) -> None:
        prompts = random_prompts(ALBUM, HELD, 30, 1)
        assert len(prompts) == 30
        for prompt in prompts:
            place = prompt.things[0]
            assert prompt.style != HELD.styles.get(place, "-")
            assert prompt.colour != HELD.colours[place]
        assert {(bool(p.style), bool(p.colour)) for p in prompts} == {
            (a, b) for a in (True, False) for b in (True, False)
        }

    def test_the_table_shows_each_figure_with_its_goal(self) -> None:
        text = io.StringIO()
        console = Console(width=100, file=text)
        console.print(
            as_table([Figure("name", 0.5, 300, 0.95), Figure("guidance 1: name", 0.25, 50)])
        )
        rows = text.getvalue().splitlines()
        assert any(
            "0.500" in row and "0.950" in row and "300" in row and "no" in row for row in rows
        )
        assert any("0.250" in row and row.count(" - ") == 2 for row in rows)
