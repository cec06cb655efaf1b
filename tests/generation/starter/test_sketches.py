"""What the text encoder is to write for the UNet."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from generation.starter.training.drawings.scenes import COLOURS, HeldOut
from generation.starter.training.learning.captions import Said
from generation.starter.training.learning.latents import poses
from generation.starter.training.learning.networks import (
    PATCHES,
    TOKENS,
    WORDS,
)
from generation.starter.training.learning.reading import picture_codes
from generation.starter.training.learning.sketches import (
    FORMS,
    LOUD,
    Sketches,
    draw_forms,
    patch_codes,
    pointed,
    sketch_at,
)

from .album import STYLES
from .tasks import ALBUM

NOTHING_HELD = HeldOut(("",) * len(ALBUM.things), {}, ("",) * len(ALBUM.things))
POSES = poses(ALBUM)
SKETCHED = slice(WORDS + 1, TOKENS)


@pytest.fixture(scope="module")
def sketches(forms: torch.Tensor) -> Sketches:
    return Sketches(ALBUM, NOTHING_HELD, forms, 256)


class Shrinking:
    """Brings pictures to an eighth of their size, so that places in latents are plain to see."""

    device = torch.device("cpu")

    def encode(self, pictures: torch.Tensor) -> Any:
        latents = type("Latents", (), {"mean": avg_pool2d(pictures, 8)})
        return type("Encoded", (), {"latent_dist": latents})


def test_every_picture_is_drawn_in_every_form() -> None:
    forms = draw_forms(Shrinking(), ALBUM).float()
    assert forms.shape == (len(ALBUM.pictures), len(FORMS), 2, 3, 16, 16)
    # What is seen through is white on one ground and black on the other.
    opaque = 1 - (forms[:, :, 0] - forms[:, :, 1]).mean(2) / 2
    ball = dict(zip(FORMS, opaque[POSES.index((0, "noto"))], strict=True))
    # A circle that fills its square but for a margin.
    for form, extent in {"tiny": 0.33, "usual": 0.76, "huge": 0.975}.items():
        area = 3.1416 / 4 * (extent * 120 / 128) ** 2
        assert float(ball[form].mean()) == pytest.approx(area, rel=0.05)
    assert not ball["left"][:, 8:].round(decimals=2).any()
    assert not ball["right"][:, :8].round(decimals=2).any()
    assert float(ball["left"].sum()) == pytest.approx(float(ball["right"].sum()), rel=0.05)


def test_codes_are_the_same_on_any_number_of_threads(forms: torch.Tensor) -> None:
    kept, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        codes = patch_codes(forms, 4)
        found.append((codes, picture_codes(codes[:, 0].flatten(1))[:, :4]))
    torch.set_num_threads(kept)
    for one, other in itertools.pairwise(found):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    # Each axis points where its largest number is above zero.
    axes = torch.tensor([[1.0, -3.0], [-2.0, 1.0]])
    assert torch.equal(pointed(axes), torch.tensor([[-1.0, 3.0], [2.0, -1.0]]))


def test_codes_bring_patches_back_in_their_places() -> None:
    forms = torch.zeros(3, 1, 2, 1, 8, 8)
    forms[0, 0, :, 0, 0:2, 2:4] = 1.0
    forms[1, 0, :, 0, 6:8, 0:2] = 1.0
    codes = patch_codes(forms, 1)[:, 0, :, 0]
    # The patches go row by row, and only these two differ from the others.
    empty = codes[2, 0]
    assert codes.shape == (3, PATCHES)
    differs = (codes - empty).abs() > 1e-3
    assert differs.nonzero().tolist() == [[0, 1], [1, 12]]


class TestSketches:
    def of(self, sketches: Sketches, said: Said, style: str) -> torch.Tensor:
        place = STYLES.index(style)
        tokens = sketches.tokens(said)[sketch_at(place)]
        own = slice(place * sketches.components, (place + 1) * sketches.components)
        # At the numbers of the other sketch there is nothing.
        others = tokens[:, : sketches.numbers].clone()
        others[:, own] = 0
        assert not others.any()
        return tokens[:, own]

    def test_a_style_that_is_not_said_is_left_open(self, sketches: Sketches) -> None:
        for style in STYLES:
            code = sketches.codes[POSES.index((2, style)), 0]
            assert torch.equal(self.of(sketches, Said("", (2,)), style), code)
            assert all(
                torch.equal(self.of(sketches, Said("", (2,), style), place), code)
                for place in STYLES
            )

    def test_a_sketch_is_marked_with_the_style_that_it_shows(self, sketches: Sketches) -> None:
        def marks(said: Said, rows: slice) -> list[list[float]]:
            return sketches.tokens(said)[rows, -len(STYLES) :].unique(dim=0).tolist()

        noto, flat, none = [LOUD, 0.0], [0.0, LOUD], [0.0, 0.0]
        of_all = slice(WORDS, WORDS + 1)
        assert marks(Said("", (2,)), sketch_at(0)) == [noto]
        assert marks(Said("", (2,)), sketch_at(1)) == [flat]
        assert marks(Said("", (2,)), of_all) == [none]
        for place in range(len(STYLES)):
            assert marks(Said("", (2,), "flat"), sketch_at(place)) == [flat]
        assert marks(Said("", (2,), "flat"), of_all) == [flat]
        assert marks(Said(""), SKETCHED) == [none]

    def test_two_things_lie_side_by_side(self, sketches: Sketches) -> None:
        found = self.of(sketches, Said("", (0, 3)), "noto").view(4, 4, -1)
        left, right = list(FORMS).index("left"), list(FORMS).index("right")
        ball = sketches.codes[POSES.index((0, "noto")), left].view(4, 4, -1)
        post = sketches.codes[POSES.index((3, "noto")), right].view(4, 4, -1)
        assert torch.equal(found, torch.cat([ball[:, :2], post[:, 2:]], 1))

    def test_colour_and_size_are_marks_and_change_no_sketch_but_by_size(
        self, sketches: Sketches
    ) -> None:
        plain = sketches.tokens(Said("", (1,)))
        marks = {}
        for colour in COLOURS:
            tokens = sketches.tokens(Said("", (1,), colour=colour))
            sketch = slice(0, sketches.numbers)
            assert torch.equal(tokens[SKETCHED, sketch], plain[SKETCHED, sketch])
            # Of the marks the first says that they are this token's own, the last which style.
            said = slice(sketches.numbers + PATCHES + 1, -len(STYLES))
            assert (tokens[SKETCHED, said] == tokens[WORDS, said]).all()
            marks[colour] = tokens[WORDS]
        seen = torch.stack([plain[WORDS], *marks.values()])
        apart = torch.cdist(seen, seen) + 9 * torch.eye(len(seen))
        assert float(apart.min()) > 0.1
        tiny = sketches.tokens(Said("", (1,), size="tiny"))
        assert not torch.equal(tiny[WORDS], plain[WORDS])
        assert not torch.equal(tiny[SKETCHED], plain[SKETCHED])

    def test_an_empty_caption_has_no_sketch_but_its_places(self, sketches: Sketches) -> None:
        tokens = sketches.tokens(Said(""))
        assert not tokens[SKETCHED, : sketches.numbers].any()
        numbers = tokens[SKETCHED, sketches.numbers : sketches.numbers + PATCHES]
        assert torch.equal(numbers, LOUD * torch.eye(PATCHES).repeat(len(STYLES), 1))

    def test_what_is_held_out_is_never_sketched(self, forms: torch.Tensor) -> None:
        held = replace(NOTHING_HELD, styles={0: "flat"})
        sketches = Sketches(ALBUM, held, forms, 256)
        noto = sketches.codes[POSES.index((0, "noto")), 0]
        assert torch.equal(self.of(sketches, Said("", (0,)), "noto"), noto)
        assert self.of(sketches, Said("", (0,)), "flat").isnan().all()
        beside = self.of(sketches, Said("", (0, 3)), "flat").view(4, 4, -1)
        assert beside[:, :2].isnan().all()
        assert beside[:, 2:].isfinite().all()
        # The pictures that it must not be told from either.
        assert sketches.untold(Said("", (3,))).nonzero().tolist() == [[POSES.index((0, "flat"))]]

    def test_what_has_no_picture_in_a_style_is_sketched_in_the_other(
        self, forms: torch.Tensor
    ) -> None:
        things = (replace(ALBUM.things[0], styles=("noto",)), *ALBUM.things[1:])
        gone = (things[0].name, "flat")
        index = {key: place for key, place in ALBUM.index.items() if key != gone}
        alone = replace(ALBUM, things=things, index=index)
        kept = [place for place, pose in enumerate(POSES) if pose != (0, "flat")]
        sketches = Sketches(alone, NOTHING_HELD, forms[kept], 256)
        noto = sketches.codes[0, 0]
        assert torch.equal(self.of(sketches, Said("", (0,)), "flat"), noto)
