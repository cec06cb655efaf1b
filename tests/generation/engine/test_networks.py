"""What a size that nobody asked for before costs, what is compiled, and memory that comes back."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from generation.engine import networks
from generation.engine.calibration import Bounds
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError, ModelError, OutOfMemory
from generation.models.loading import load
from generation.models.stable_diffusion import StableDiffusion
from generation.timing import Sizes
from generation.values.request import GenerationRequest

from ..examples import a_request, gradient, latent_side


def small_calls(engine: Engine) -> Engine:
    engine._networks._bounds = Bounds(ladder=(1, 2, 4, 8), seconds=60.0)
    return engine


def begin(engine: Engine, request: GenerationRequest) -> list[Denoising]:
    [images] = engine.begin([request])
    assert not isinstance(images, GenerationError)
    return images


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """Count the latent pixels of each call, over all rows."""
    calls: list[int] = []

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(inputs[0].numel() // inputs[0].shape[1])

    hook = network.register_forward_pre_hook(note)
    try:
        yield calls
    finally:
        hook.remove()


class TestAnotherSize:
    """Everybody waits for the first step and the first decoding of a new size."""

    @pytest.mark.parametrize(("wide", "high"), [(1.5, 1), (1, 0.5), (2, 2)])
    def test_its_first_step_costs_little_more_than_two_full_calls(
        self, starter: StableDiffusion, wide: float, high: float
    ) -> None:
        edge, side = starter.profile.native_size, starter.unet.config.sample_size
        width, height = int(wide * edge), int(high * edge)
        engine = small_calls(Engine(starter))
        most = engine._networks._sizes or engine.measured().step_seconds
        native = max(most) * side**2
        images = begin(engine, a_request(width=width, height=height))
        own = 2 * wide * high * side**2
        with counted(starter.unet) as calls:
            engine.step(images)
        # Each size that is no larger than a full call, once; the smallest, and the step itself.
        assert sum(calls) <= 2 * native + 3 * own
        with counted(starter.unet) as calls:
            engine.step(images)
        assert sum(calls) == own

    def test_its_first_decoding_costs_little_more_than_two_full_calls(
        self, starter: StableDiffusion
    ) -> None:
        engine = small_calls(Engine(starter))
        most = max(engine.measured().decode_seconds)
        edge, side = starter.profile.native_size, starter.unet.config.sample_size
        images = begin(engine, a_request(steps=1, width=2 * edge, height=2 * edge))
        engine.step(images)
        with counted(starter.vae.decoder) as calls:
            assert engine.finish(images)[0] is not None
        assert sum(calls) <= 2 * most * side**2 + 2 * (2 * side) ** 2

    def test_its_seconds_are_those_of_as_many_pixels(self, starter: StableDiffusion) -> None:
        engine = small_calls(Engine(starter))
        known = engine.measured().step_seconds
        edge = starter.profile.native_size
        [image] = begin(engine, a_request(width=2 * edge, height=edge))
        sizes = engine._networks.sizes(image.latents.shape, image.conditional)
        for size, seconds in sizes.seconds.items():
            assert seconds == pytest.approx(Sizes(known).time(2 * size))


def test_an_engine_for_one_request_at_a_time_measures_nothing(starter: StableDiffusion) -> None:
    engine = Engine(starter, shared=False)
    with counted(starter.unet) as calls:
        engine.generate(a_request(steps=3))
    assert calls == [2 * latent_side(a_request().width, starter) ** 2] * 3


def test_a_source_is_encoded_once_for_all_pictures_of_a_job(starter: StableDiffusion) -> None:
    engine = small_calls(Engine(starter))
    request = a_request(source=gradient(), strength=0.5, count=4)
    with counted(starter.vae.encoder) as calls:
        images = begin(engine, request)
    assert len(calls) == 1
    latents = torch.cat([image.latents for image in images])
    assert len(latents.unique(dim=0)) == 4


class TestCompiled:
    """The compiler itself takes minutes; here it is one that counts."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
        calls: list[torch.Size] = []

        def compiled(network: Any, *, dynamic: bool) -> Any:
            assert not dynamic

            def call(latents: torch.Tensor, *rest: Any, **more: Any) -> Any:
                calls.append(latents.shape)
                return network(latents, *rest, **more)

            return call

        monkeypatch.setattr(torch, "compile", compiled)
        return calls

    def test_only_the_models_own_size_is_and_its_recipe_says_so(
        self, starter: StableDiffusion, calls: list[torch.Size]
    ) -> None:
        engine = small_calls(Engine(starter, compiled=True))
        edge, side = starter.profile.native_size, starter.unet.config.sample_size
        [own] = engine.generate(a_request(steps=2, width=edge, height=edge))
        assert {shape[2:] for shape in calls} == {(side, side)}
        assert {shape[0] for shape in calls} <= {2, 8}
        assert own.recipe.compiled is True
        calls.clear()
        [other] = engine.generate(a_request(steps=2, width=96, height=edge))
        assert calls == []
        assert other.recipe.compiled is None
        assert type(own.recipe).from_json(own.recipe.to_json()) == own.recipe

    @pytest.mark.rare
    def test_the_unet_is_one_graph(self, starter: StableDiffusion) -> None:
        """Where it breaks in two, most of what compiling wins is lost, and nothing says so."""
        unet = load(starter.profile, compiled=True).unet
        side, width = unet.config.sample_size, unet.config.cross_attention_dim
        latents = torch.randn(2, unet.config.in_channels, side, side)
        text = torch.randn(2, starter.profile.token_limit, width)
        torch.compiler.reset()
        try:
            with torch.inference_mode():
                # All but the code generator, which takes a minute; a break is an error here.
                traced = torch.compile(unet, backend="eager", fullgraph=True, dynamic=False)
                found = traced(latents, torch.tensor([5, 900]), text, return_dict=False)[0]
                right = unet(latents, torch.tensor([5, 900]), text, return_dict=False)[0]
        finally:
            torch.compiler.reset()
        assert torch.equal(found, right)

    def test_without_it_nothing_is(self, starter: StableDiffusion, calls: list[torch.Size]) -> None:
        [made] = Engine(starter, shared=False).generate(a_request(steps=1))
        assert calls == []
        assert made.recipe.compiled is None


@pytest.fixture(scope="module")
def half(starter: StableDiffusion) -> StableDiffusion:
    return load(starter.profile, device="cpu", dtype="bfloat16")


def after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + networks._REGROW_SECONDS + 1
    monkeypatch.setattr("time.monotonic", lambda: later)


def test_calls_that_memory_did_not_suffice_for_are_tried_again_after_a_while(
    starter: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small_calls(Engine(starter))
    [image] = begin(engine, a_request())
    shapes = image.latents.shape, image.conditional.shape
    whole = engine._networks.sizes(shapes[0], image.conditional).most
    assert engine._networks.shrink(*shapes, whole)
    assert engine._networks.sizes(shapes[0], image.conditional).most < whole
    after_a_while(monkeypatch)
    assert engine._networks.sizes(shapes[0], image.conditional).most == whole


def test_calls_that_were_slow_for_a_moment_are_made_again_after_a_while(
    starter: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small_calls(Engine(starter))
    [image] = begin(engine, a_request())
    shapes = image.latents.shape, image.conditional.shape
    measured = engine._networks.sizes(shapes[0], image.conditional)
    engine._networks.saw(*shapes, measured.most, 60.0)
    engine._networks.saw(*shapes, 2, measured.seconds[2])
    now = engine._networks.sizes(shapes[0], image.conditional)
    assert now.split(measured.most)[0] < measured.most
    after_a_while(monkeypatch)
    assert engine._networks.sizes(shapes[0], image.conditional) == measured


class TestFloat32:
    def overflowed(self, engine: Engine, request: GenerationRequest) -> list[Denoising]:
        images = begin(engine, request)
        while not images[0].done:
            engine.step(images)
        for image in images:
            image.latents = image.latents * torch.inf
        assert engine.finish(images) == [None] * len(images)
        return images

    def test_its_networks_go_when_no_picture_needs_them_and_calls_are_large_again(
        self, half: StableDiffusion, starter: StableDiffusion
    ) -> None:
        loads: list[StableDiffusion] = []

        def load_again() -> StableDiffusion:
            loads.append(starter)
            return starter

        engine = small_calls(Engine(half, load_in_float32=load_again))
        images = self.overflowed(engine, a_request(count=2))
        shape, told = images[0].latents.shape, images[0].conditional
        whole = engine._networks.sizes(shape, told)
        assert engine._networks.shrink(shape, told.shape, whole.most)
        assert engine._networks.sizes(shape, told).most < whole.most
        while not all(image.done for image in images):
            engine.step(images)
        assert all(engine.finish(images))
        assert len(loads) == 1
        images.clear()
        gc.collect()
        assert engine._second_attempt._float32 is not None
        assert engine._second_attempt._float32() is None
        assert engine._networks.sizes(shape, told).most == whole.most
        assert engine.generate(a_request())[0].recipe.dtype == "bfloat16"

    @pytest.mark.parametrize(
        ("error", "failure"),
        [
            (ModelError("The model needs more memory than cpu has."), ModelError),
            (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory),
        ],
    )
    def test_if_they_do_not_fit_that_picture_alone_fails(
        self, half: StableDiffusion, error: Exception, failure: type[Exception]
    ) -> None:
        def does_not_fit() -> StableDiffusion:
            raise error

        engine = small_calls(Engine(half, load_in_float32=does_not_fit))
        sound = begin(engine, a_request(seed=1))
        while not sound[0].done:
            engine.step(sound)
        [hot] = self.overflowed(engine, a_request(seed=2))
        assert isinstance(hot.failure, failure)
        assert engine.finish(sound)[0] is not None


def test_a_decoder_that_does_not_fit_whole_at_the_start_decodes_in_tiles(
    starter: StableDiffusion,
) -> None:
    engine = small_calls(Engine(starter))
    request = a_request(steps=1)
    half = latent_side(request.width, starter) // 2

    def run_out(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[3] > half:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = starter.vae.decoder.register_forward_pre_hook(run_out)
    try:
        assert engine.measured().decode_seconds.keys() == {1}
        [made] = engine.generate(request)
    finally:
        hook.remove()
    assert made.recipe.decoder_tile == request.width // 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu_pictures_are_within_one_of_255_and_deterministic_ones_equal(
    starter: StableDiffusion, deterministic: bool, record_property: Any
) -> None:
    parts = load(starter.profile, device="cuda", dtype="float16")
    engine = Engine(parts, deterministic=deterministic)
    wanted = [a_request(seed=seed, steps=4 + seed % 3) for seed in range(8)]
    alone = [engine.generate(request)[0].pixels for request in wanted]
    images = [image for request in wanted for image in begin(engine, request)]
    while not all(image.done for image in images):
        engine.step(images)
    together = [made.pixels for made in engine.finish(images) if made is not None]
    away = torch.stack(
        [
            (
                torch.frombuffer(bytearray(a.rgb), dtype=torch.uint8).int()
                - torch.frombuffer(bytearray(b.rgb), dtype=torch.uint8).int()
            ).abs()
            for a, b in zip(alone, together, strict=True)
        ]
    )
    record_property("share of equal values", float((away == 0).float().mean()))
    assert int(away.max()) <= (0 if deterministic else 1)
