from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from generation.starter.training.drawings.drawing import EDGE
from generation.starter.training.drawings.scenes import (
    COLOURS,
    Scene,
    Size,
    Subject,
    begins_as_pair,
    compose,
    draw_scene,
    hold_out,
)
from generation.starter.training.learning.captions import Said, describe, with_article

from ..album import STYLES, album

ALBUM = album()
HELD = hold_out(ALBUM.things, STYLES, 0)
BALL, BOX, BAR, POST, MOON = range(5)


def test_a_scene_depends_on_its_seed_and_number_alone() -> None:
    forwards = [draw_scene(ALBUM, HELD, 3, number) for number in range(40)]
    backwards = [draw_scene(ALBUM, HELD, 3, number) for number in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert np.array_equal(compose(ALBUM, forwards[7]), compose(ALBUM, backwards[32]))
    assert forwards != [draw_scene(ALBUM, HELD, 4, number) for number in range(40)]


def test_a_pair_is_known_before_its_scene_is_drawn() -> None:
    pairs = [len(draw_scene(ALBUM, None, 3, number).subjects) > 1 for number in range(400)]
    assert [begins_as_pair(3, number) for number in range(400)] == pairs
    assert 30 < sum(pairs) < 90


def test_what_is_held_out_is_never_shown() -> None:
    scenes = [draw_scene(ALBUM, HELD, 0, number) for number in range(1_500)]
    shown = {
        (subject.thing, scene.style, scene.colour) for scene in scenes for subject in scene.subjects
    }
    assert len(HELD.styles) == 1
    for place, colour in enumerate(HELD.colours):
        on = {seen for thing, _, seen in shown if thing == place}
        assert on == set(COLOURS) - {colour}
    for place, style in HELD.styles.items():
        assert {seen for thing, seen, _ in shown if thing == place} == set(STYLES) - {style}


def test_all_else_varies_freely() -> None:
    scenes = [draw_scene(ALBUM, HELD, 1, number) for number in range(600)]
    assert {scene.size for scene in scenes} == {"tiny", "usual", "huge", "half"}
    assert {len(scene.subjects) for scene in scenes} == {1, 2}
    boxes = [s for scene in scenes for s in scene.subjects if s.thing == BOX]
    assert {subject.mirrored for subject in boxes} == {True, False}
    for value in ("tilt", "extent", "x", "y", "tint", "shade"):
        assert len({getattr(subject, value) for subject in boxes}) == len(boxes)
    assert not any(s.mirrored for scene in scenes for s in scene.subjects if s.thing == MOON)


def middle_of(scene: Scene, colour: tuple[int, int, int]) -> tuple[float, float, int]:
    """Where the pixels of `colour` lie on average (x, y), and how many there are."""
    away = np.abs(compose(ALBUM, scene).astype(int) - colour).sum(-1)
    rows, columns = np.nonzero(away < 40)
    return float(columns.mean()), float(rows.mean()), len(rows)


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.3, 0.6), (0.7, 0.35)])
@pytest.mark.parametrize("extent", [0.3, 0.5])
@pytest.mark.parametrize("tilt", [0.0, 8.0])
def test_a_thing_lies_where_the_scene_says(x: float, y: float, extent: float, tilt: float) -> None:
    subject = Subject(BOX, tilt=tilt, extent=extent, x=x, y=y)
    across, down, count = middle_of(Scene((subject,), "noto", "white"), (120, 70, 30))
    assert across == pytest.approx(x * EDGE, abs=1)
    assert down == pytest.approx(y * EDGE, abs=1)
    assert count == pytest.approx((extent * EDGE * 120 / 128) ** 2, rel=0.08)


def test_a_mirrored_half_moon_looks_the_other_way() -> None:
    plain = middle_of(Scene((Subject(MOON),), "noto", "black"), (240, 220, 120))
    mirrored = middle_of(Scene((Subject(MOON, mirrored=True),), "noto", "black"), (240, 220, 120))
    assert plain[0] < EDGE / 2 - 8
    assert plain[0] + mirrored[0] == pytest.approx(EDGE, abs=2)


def test_light_falls_on_the_thing_and_not_on_the_background() -> None:
    dark = Subject(BOX, tint=(0.5, 0.5, 0.5))
    picture = compose(ALBUM, Scene((dark,), "noto", "pink"))
    assert tuple(picture[0, 0]) == COLOURS["pink"]
    assert tuple(picture[64, 64]) == (60, 35, 15)


class TestCaptions:
    def described(self, scene: Scene, count: int = 400) -> list[Said]:
        random = np.random.default_rng(0)
        return [describe(scene, ALBUM.things, HELD, random) for _ in range(count)]

    def captions(self, scene: Scene) -> list[str]:
        return [said.text for said in self.described(scene)]

    @pytest.mark.parametrize("size", ["tiny", "usual", "huge"])
    def test_what_a_caption_says_is_known_beside_it(self, size: Size) -> None:
        for said in self.described(Scene((Subject(BAR),), "flat", "green", size)):
            assert said.things == (BAR,)
            assert said.style == ("flat" if "flat style" in said.text else None)
            assert said.colour == ("green" if "green" in said.text else None)
            sizes = {"tiny": ("tiny", "small", "little"), "huge": ("huge", "big", "large")}
            named = any(word in said.text for word in sizes.get(size, ()))
            assert said.size == (size if named else None)

    def test_only_what_is_there_is_named(self) -> None:
        texts = self.captions(Scene((Subject(BAR),), "flat", "green"))
        assert all("teal bar" in text for text in texts)
        others = {*COLOURS, "noto"} - {"green"}
        assert not any(set(text.replace(",", "").split()) & others for text in texts)

    def test_style_and_colour_are_named_or_left_open(self) -> None:
        texts = self.captions(Scene((Subject(BAR),), "flat", "green"))
        kinds = {("flat style" in text, "green" in text) for text in texts}
        assert kinds == {(True, True), (True, False), (False, True), (False, False)}

    def test_a_keyword_may_stand_for_the_name_but_not_in_the_style_held_out(self) -> None:
        held = HELD.keyword_styles[BOX]
        other = next(style for style in STYLES if style != held)
        assert not any("crate" in t for t in self.captions(Scene((Subject(BOX),), held, "red")))
        found = self.captions(Scene((Subject(BOX),), other, "red"))
        assert any("crate" in text for text in found)
        assert any("brown box" in text for text in found)

    def test_two_things_are_named_from_left_to_right(self) -> None:
        scene = Scene((Subject(BAR), Subject(MOON)), HELD.keyword_styles[MOON], "red", "half")
        for text in self.captions(scene):
            assert text.index("teal bar") < text.index("half moon")

    def test_a_name_that_begins_with_a_is_said_whole(self) -> None:
        name = "a button"
        things = [replace(thing, name=name, keywords=()) for thing in ALBUM.things]
        for colour in COLOURS:
            scene = Scene((Subject(BAR),), "flat", colour)
            for seed in range(10):
                said = describe(scene, things, HELD, np.random.default_rng(seed))
                assert name in said.text
                assert "a a a" not in said.text

    def test_a_tiny_thing_is_called_so(self) -> None:
        texts = self.captions(Scene((Subject(BAR, extent=0.3),), "flat", "green", "tiny"))
        tiny = [text for text in texts if any(w in text for w in ("tiny", "small", "little"))]
        assert 0.7 < len(tiny) / len(texts) < 0.95

    def test_the_article_fits_the_name(self) -> None:
        assert with_article("owl") == "an owl"
        assert with_article("tiny owl") == "a tiny owl"
