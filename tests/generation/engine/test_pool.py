"""Several models behind one engine: what leaves the memory, and what becomes of its pictures."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from generation.engine import autoencoder, embeddings, networks
from generation.engine import pool as pool_module
from generation.engine.calibration import Learned
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.engine.pool import EnginePool, Loadable
from generation.errors import GenerationError, ModelError, ModelTooLarge, OutOfMemory
from generation.models.loading import expected_bytes, load
from generation.models.stable_diffusion import StableDiffusion
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from ..examples import a_request
from .faults import small_calls, unet_without_room


class Shelf:
    """Engines that are made when they are asked for, and how often each was."""

    def __init__(self, **models: StableDiffusion) -> None:
        self.models = models
        self.loads: list[str] = []
        self.alive: dict[str, weakref.ref[Engine]] = {}
        self.failures: dict[str, Exception] = {}

    def pool(self, budget: int | None = None, size: int = 10) -> EnginePool:
        return EnginePool(
            {name: Loadable(self._maker(name), size) for name in self.models}, budget=budget
        )

    def _maker(self, name: str) -> Callable[[Learned | None], Engine]:
        def make(learned: Learned | None) -> Engine:
            self.loads.append(name)
            if failure := self.failures.pop(name, None):
                raise failure
            engine = Engine(self.models[name], shared=False, learned=learned)
            self.alive[name] = weakref.ref(engine)
            return engine

        return make

    @property
    def in_memory(self) -> set[str]:
        return {name for name, engine in self.alive.items() if engine() is not None}


@pytest.fixture
def shelf(starter: StableDiffusion, sd15: StableDiffusion) -> Shelf:
    return Shelf(a=starter, b=sd15, c=starter)


def begin(pool: EnginePool, *requests: GenerationRequest) -> list[Denoising]:
    images = []
    for begun in pool.begin(requests):
        assert not isinstance(begun, GenerationError), begun
        images += begun
    return images


def finish(pool: EnginePool, images: Sequence[Denoising]) -> list[GeneratedImage]:
    while not all(image.done for image in images):
        pool.step(images)
    return [picture for picture in pool.finish(images) if picture is not None]


@pytest.fixture(scope="module")
def alone(starter: StableDiffusion, sd15: StableDiffusion) -> dict[str, Engine]:
    return {name: Engine(parts, shared=False) for name, parts in (("a", starter), ("b", sd15))}


A, B = a_request(model="a", steps=4), a_request(model="b", steps=3, seed=3)


class TestOneModelAtATime:
    def test_a_picture_goes_on_with_the_same_bits_when_its_model_is_back(
        self, shelf: Shelf, alone: dict[str, Engine]
    ) -> None:
        pool = shelf.pool()
        first = begin(pool, A)
        pool.step(first)
        pool.step(first)
        second = begin(pool, B)
        assert shelf.in_memory == {"b"}
        assert finish(pool, second) == alone["b"].generate(B)
        assert first[0].progress.step == 2
        assert finish(pool, first) == alone["a"].generate(A)
        assert shelf.loads == ["a", "b", "a"]

    def test_requests_for_several_models_come_back_in_their_order(
        self, shelf: Shelf, alone: dict[str, Engine]
    ) -> None:
        pool = shelf.pool(budget=100)
        other = a_request(seed=9, steps=2)
        images = begin(pool, A, B, other)
        made = finish(pool, images)
        expected = [*alone["a"].generate(A), *alone["b"].generate(B), *alone["a"].generate(other)]
        assert [picture.recipe.seed for picture in made] == [7, 3, 9]
        assert made == expected

    def test_a_model_that_comes_back_is_not_measured_again(
        self, sd15: StableDiffusion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = EnginePool(
            {
                "a": Loadable(lambda learned: small_calls(Engine(sd15, learned=learned)), 1),
                "b": Loadable(lambda _: Engine(sd15, shared=False), 1),
            }
        )
        before = pool.measured()
        pool.load("b")
        monkeypatch.setattr(networks, "measure", None)
        monkeypatch.setattr(networks, "fewer_threads", None)
        monkeypatch.setattr(autoencoder, "measure", None)
        monkeypatch.setattr(embeddings, "measure", None)
        assert pool.measured() == before

    def test_the_weights_of_a_model_that_leaves_are_freed(self, starter: StableDiffusion) -> None:
        weights = []

        def load_anew(_: Learned | None) -> Engine:
            model = load(starter.profile, device="cpu", dtype="float32")
            weights.append(weakref.ref(model.unet.conv_in.weight))
            return Engine(model, shared=False)

        pool = EnginePool({name: Loadable(load_anew, 1) for name in ("a", "b")})
        images = begin(pool, A)
        pool.step(images)
        assert pool.load("b").failure is None
        assert [weight() is None for weight in weights] == [True, False]

    def test_a_picture_starts_again_if_the_files_of_its_model_changed_meanwhile(
        self, shelf: Shelf, alone: dict[str, Engine]
    ) -> None:
        pool = shelf.pool()
        images = begin(pool, A)
        pool.step(images)
        pool.load("c")
        shelf.models["a"] = shelf.models["b"]
        assert pool.load("a").weights_sha256 == shelf.models["b"].weights_sha256
        assert images[0].progress.step == 0
        assert finish(pool, images) == alone["b"].generate(A)

    def test_what_was_measured_of_other_weights_does_not_count(
        self, starter: StableDiffusion
    ) -> None:
        engine = Engine(starter, shared=False)
        engine.measured()
        learned = engine.learned
        assert Engine(starter, shared=False, learned=learned).learned == learned
        other = replace(starter, weights_sha256="0" * 64)
        assert not Engine(other, shared=False, learned=learned).learned.steps

    def test_a_picture_that_was_dropped_is_not_kept(self, shelf: Shelf) -> None:
        pool = shelf.pool()
        images = begin(pool, A)
        pool.load("b")
        gone = weakref.ref(images[0])
        del images
        assert gone() is None
        assert pool.load("a").measured is not None

    def test_no_preview_loads_a_model(self, shelf: Shelf) -> None:
        pool = shelf.pool()
        images = begin(pool, A)
        pool.step(images)
        assert pool.preview(images[0]) is not None
        pool.load("b")
        assert pool.preview(images[0]) is None
        assert shelf.in_memory == {"b"}

    def test_a_picture_that_overflowed_is_made_again_in_float32(
        self, starter: StableDiffusion, sd15: StableDiffusion
    ) -> None:
        half = load(starter.profile, device="cpu", dtype="bfloat16")

        def cautious(_: Learned | None) -> Engine:
            return small_calls(Engine(half, shared=False, load_in_float32=lambda: starter))

        pool = EnginePool(
            {"a": Loadable(cautious, 1), "b": Loadable(lambda _: Engine(sd15, shared=False), 1)}
        )
        short = a_request(model="a", steps=1)
        images = begin(pool, short)
        pool.step(images)
        images[0].latents = torch.full_like(images[0].latents, torch.nan)
        assert pool.finish(images) == [None]
        pool.load("b")
        (made,) = finish(pool, images) or finish(pool, images)
        assert made.recipe.dtype == "float32"
        assert [made] == Engine(starter, shared=False).generate(short)


class TestBudget:
    def test_models_that_fit_stay(self, shelf: Shelf) -> None:
        pool = shelf.pool(budget=25)
        assert set(pool.load("a").beside) == {"b", "c"}
        result = pool.load("b")
        assert set(result.loaded) == {"a", "b"}
        assert not result.beside
        assert shelf.in_memory == {"a", "b"}

    def test_the_least_recently_used_leaves(self, shelf: Shelf) -> None:
        pool = shelf.pool(budget=25)
        pool.load("a")
        pool.load("b")
        begin(pool, A)
        assert set(pool.load("c").loaded) == {"a", "c"}
        assert shelf.in_memory == {"a", "c"}

    def test_a_model_above_the_budget_is_alone(self, shelf: Shelf) -> None:
        pool = shelf.pool(budget=5)
        pool.load("a")
        assert set(pool.load("b").loaded) == {"b"}

    @pytest.mark.parametrize(
        ("measured", "fits"), [(-5, True), (0, True), (2, True), (12, True), (17, False)]
    )
    def test_a_model_counts_at_least_what_its_files_say(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, measured: int, fits: bool
    ) -> None:
        """The networks of an offloaded model are not on the card when the card is measured."""
        allocated = iter([100, 100 + measured])
        monkeypatch.setattr(pool_module, "_allocated", lambda: next(allocated))
        pool = shelf.pool(budget=26)
        assert set(pool.load("a").beside) == ({"b", "c"} if fits else set())
        small = shelf.pool(budget=19)
        allocated = iter([100, 100 + measured])
        assert not small.load("a").beside

    def test_the_size_of_a_model_is_known_before_it_is_loaded(
        self, starter: StableDiffusion
    ) -> None:
        networks = (starter.unet, starter.vae, starter.text_encoder)
        real = sum(parameter.numel() for network in networks for parameter in network.parameters())
        expected = expected_bytes(starter.profile, device="cpu", dtype="bfloat16")
        # A few buffers are in the files too, and a network may share a parameter.
        assert expected == pytest.approx(2 * real, rel=0.02)


class TestShortMemory:
    def test_a_model_without_pictures_leaves_before_calls_get_smaller(
        self, shelf: Shelf, starter: StableDiffusion, alone: dict[str, Engine]
    ) -> None:
        pool = shelf.pool(budget=100)
        pool.load("b")
        images = begin(pool, A)
        with unet_without_room(starter, lambda _: "b" in shelf.in_memory) as refused:
            assert finish(pool, images) == alone["a"].generate(A)
        assert len(refused) == 1
        assert shelf.in_memory == {"a"}

    def test_a_model_with_pictures_leaves_only_before_a_picture_fails(
        self, shelf: Shelf, starter: StableDiffusion, alone: dict[str, Engine]
    ) -> None:
        pool = shelf.pool(budget=100)
        images = begin(pool, B, A)
        pool.step(images)
        assert shelf.in_memory == {"a", "b"}
        with unet_without_room(starter, lambda _: "b" in shelf.in_memory):
            made = finish(pool, images)
        assert made == [*alone["b"].generate(B), *alone["a"].generate(A)]
        assert shelf.loads.count("b") > 1


class TestFailures:
    def test_a_model_that_cannot_be_loaded_fails_alone_and_is_not_tried_again_at_once(
        self, shelf: Shelf, alone: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = shelf.pool(budget=100)
        images = begin(pool, A)
        for _ in range(2):
            shelf.failures["b"] = ModelError("The file is broken; download it again.")
            result = pool.load("b")
            assert result.measured is None
            assert str(result.failure) == "The file is broken; download it again."
            assert set(result.loaded) == {"a"}
        assert shelf.loads == ["a", "b"]
        assert finish(pool, images) == alone["a"].generate(A)
        shelf.failures.clear()
        monkeypatch.setattr(pool_module, "_RETRY_SECONDS", 0.0)
        assert pool.load("b").failure is None

    @pytest.mark.parametrize(
        "error", [ModelTooLarge("It does not fit."), torch.OutOfMemoryError(), OutOfMemory()]
    )
    def test_a_model_that_does_not_fit_in_beside_others_has_the_memory_alone(
        self, shelf: Shelf, error: Exception
    ) -> None:
        pool = shelf.pool(budget=100)
        pool.load("a")
        shelf.failures["b"] = error
        assert set(pool.load("b").loaded) == {"b"}
        assert shelf.in_memory == {"b"}
        shelf.failures["a"] = error
        pool = shelf.pool()
        failure = pool.load("a").failure
        assert isinstance(failure, ModelTooLarge)
        assert str(failure).startswith("The model a does not fit into the memory of the device;")

    def test_the_weights_of_a_model_that_does_not_fit_are_freed(
        self, starter: StableDiffusion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights = []

        def load_anew(_: Learned | None) -> Engine:
            model = load(starter.profile, device="cpu", dtype="float32")
            weights.append(weakref.ref(model.unet.conv_in.weight))
            return Engine(model, shared=False)

        def run_out(_: Engine) -> None:
            raise OutOfMemory

        monkeypatch.setattr(Engine, "measured", run_out)
        pool = EnginePool({"a": Loadable(load_anew, 1)})
        assert isinstance(pool.load("a").failure, ModelTooLarge)
        assert [weight() for weight in weights] == [None]

    def test_a_model_that_nobody_listed_is_refused_in_a_sentence(self, shelf: Shelf) -> None:
        pool = shelf.pool()
        (failure,) = pool.begin([a_request(model="gone")])
        assert str(failure) == "There is no model 'gone' any more; choose another one."
