"""Stages between decoding and storing: their order, what they change, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from generation.engine.engine import Engine
from generation.errors import GenerationError, PictureRefused
from generation.models.stable_diffusion import StableDiffusion
from generation.postprocess.stages import run
from generation.values.pixels import Pixels
from generation.values.request import GenerationRequest

from ..examples import a_request, gradient

SENTENCE = "This picture shows an owl; ask for another animal."


@dataclass
class Inverted:
    """Turns colours into their opposites."""

    seen: list[Pixels] = field(default_factory=list)

    def apply(self, picture: Pixels, request: GenerationRequest) -> Pixels:
        self.seen.append(picture)
        rgb = bytes(255 - value for value in picture.rgb)
        return Pixels(picture.width, picture.height, rgb)


@dataclass
class NoOwls:
    """Refuses the pictures of some requests."""

    seeds: frozenset[int] = frozenset({8})

    def apply(self, picture: Pixels, request: GenerationRequest) -> Pixels:
        if request.seed in self.seeds:
            raise PictureRefused(SENTENCE)
        return picture


def test_without_stages_a_picture_stays_as_it_is() -> None:
    assert run([], gradient(), a_request()) == gradient()


def test_each_stage_gets_what_the_one_before_made() -> None:
    first, second = Inverted(), Inverted()
    assert run([first, second], gradient(), a_request()) == gradient()
    assert first.seen == [gradient()]
    assert second.seen == [run([Inverted()], gradient(), a_request())]


def test_later_stages_do_not_see_a_picture_that_is_refused() -> None:
    later = Inverted()
    with pytest.raises(PictureRefused, match="owl"):
        run([NoOwls(), later], gradient(), a_request(seed=8))
    assert later.seen == []


def test_an_engine_stores_what_the_stages_make_and_fails_what_they_refuse(
    starter: StableDiffusion,
) -> None:
    request = a_request(steps=1, count=3)
    plain = Engine(starter, shared=False).generate(request)
    engine = Engine(starter, shared=False, stages=[NoOwls(), Inverted()])
    [images] = engine.begin([request])
    assert not isinstance(images, GenerationError)
    engine.step(images)
    made = engine.finish(images)
    assert [picture is None for picture in made] == [False, True, False]
    assert [type(image.failure) for image in images] == [type(None), PictureRefused, type(None)]
    assert str(images[1].failure) == SENTENCE
    for before, after in ((plain[0], made[0]), (plain[2], made[2])):
        assert after is not None
        assert after.pixels == run([Inverted()], before.pixels, request)
        assert after.recipe.pixels_sha256 == after.pixels.sha256
    with pytest.raises(PictureRefused):
        engine.generate(request)
