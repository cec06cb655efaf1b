from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generation.engine import noise
from generation.engine.calibration import LADDER
from generation.models.networks import deterministic
from generation.models.networks.deterministic import (
    UNET_VECTOR_LAYERS,
    PackedConv2d,
    RowwiseLinear,
    WholeGroupNorm,
)
from generation.models.stable_diffusion import StableDiffusion

Result = TypeVar("Result")

CONVOLUTIONS: tuple[dict[str, Any], ...] = (
    {"in_channels": 4, "out_channels": 32, "kernel_size": 3, "padding": 1},
    {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1, "stride": 2},
    {"in_channels": 32, "out_channels": 8, "kernel_size": 1, "bias": False},
    {"in_channels": 16, "out_channels": 32, "kernel_size": 3, "padding": 1, "groups": 4},
    {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 2, "dilation": 2},
    {"in_channels": 8, "out_channels": 4, "kernel_size": (3, 1), "padding": (1, 0)},
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with torch.inference_mode():
        yield


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return noise.draw(noise.generator(seed), shape)


def convolution(options: dict[str, Any]) -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Conv2d(**options).requires_grad_(False)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_a_packed_convolution_is_the_plain_one(options: dict[str, Any], rows: int) -> None:
    plain = convolution(options)
    packed = PackedConv2d(plain)
    for height, width in ((8, 8), (5, 13), (24, 16), (8, 8), (1, 2), (13, 5), (4, 4)):
        batch = drawn(rows, options["in_channels"], height + 2, width)
        torch.testing.assert_close(packed(batch), plain(batch), rtol=1e-4, atol=1e-5)


def add_in_place(layer: PackedConv2d, change: torch.Tensor) -> None:
    layer.weight += change


def copy_in_place(layer: PackedConv2d, change: torch.Tensor) -> None:
    layer.load_state_dict({**layer.state_dict(), "weight": layer.weight + change})


def replace(layer: PackedConv2d, change: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight + change, requires_grad=False)


def replace_data(layer: PackedConv2d, change: torch.Tensor) -> None:
    layer.weight.data = layer.weight.data + change


@pytest.mark.parametrize("patch", [add_in_place, copy_in_place, replace, replace_data])
def test_a_packed_convolution_notices_that_its_weights_changed(
    patch: Callable[[PackedConv2d, torch.Tensor], None],
) -> None:
    """A LoRA is patched into the weights of a network that has made pictures before."""
    [options, *_] = CONVOLUTIONS
    with torch.inference_mode(mode=False):
        # Weights are loaded outside of inference mode, as here.
        layer, batch = PackedConv2d(convolution(options)), drawn(2, options["in_channels"], 8, 8)
        change = drawn(*layer.weight.shape, seed=1)
    for step in (1, 2):
        before = layer(batch)
        patch(layer, change)
        expected = convolution(options)
        expected.weight += step * change
        assert not torch.equal(layer(batch), before)
        torch.testing.assert_close(layer(batch), expected(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_rowwise_linear_layer_is_the_plain_one(rows: int, bias: bool) -> None:
    plain = linear(48, 20, bias=bias)
    batch = drawn(rows, 48)
    rowwise = RowwiseLinear(plain)
    torch.testing.assert_close(rowwise(batch), plain(batch), rtol=1e-4, atol=1e-5)
    assert torch.equal(rowwise.weight, plain.weight)


LAYERS = [
    (PackedConv2d(convolution(options)), (options["in_channels"], 6, 10))
    for options in CONVOLUTIONS
] + [(RowwiseLinear(linear(320, 128)), (320,)), (RowwiseLinear(linear(7, 3, bias=False)), (7,))]


@given(
    st.sampled_from(LAYERS),
    st.lists(st.integers(0, 2**20), min_size=1, max_size=16),
    st.data(),
)
def test_a_row_is_the_same_whatever_is_beside_it(
    layer: tuple[nn.Module, tuple[int, ...]], seeds: list[int], data: st.DataObject
) -> None:
    network, shape = layer
    place = data.draw(st.integers(0, len(seeds) - 1))
    batch = torch.cat([drawn(1, *shape, seed=seed) for seed in seeds])
    [alone] = network(batch[place : place + 1])
    assert torch.equal(network(batch)[place], alone)


def unet_row(
    parts: StableDiffusion, size: int, place: int, latents: tuple[int, int]
) -> torch.Tensor:
    """Return the prediction for a certain row at `place` of a call of `size` rows."""
    shape = (parts.unet.config.in_channels, *latents)
    text = (parts.profile.token_limit, parts.unet.config.cross_attention_dim)
    rows, states = drawn(size, *shape, seed=size), drawn(size, *text, seed=size)
    steps = torch.linspace(999, 0, size)
    rows[place], states[place], steps[place] = drawn(*shape), drawn(*text), 500.0
    prediction: torch.Tensor = parts.unet(
        rows, steps, encoder_hidden_states=states, return_dict=False
    )[0]
    return prediction[place]


@pytest.mark.parametrize("latents", [(16, 16), (24, 16)])
def test_rows_of_the_starters_unet_are_the_same_in_calls_of_all_sizes(
    starter: StableDiffusion, latents: tuple[int, int]
) -> None:
    expected = unet_row(starter, 2, 0, latents)
    for size in LADDER[:5]:
        for place in {0, size // 2, size - 1}:
            assert torch.equal(unet_row(starter, size, place, latents), expected), (size, place)


def on_threads(count: int, call: Callable[[], Result]) -> Result:
    torch.set_num_threads(count)
    try:
        return call()
    finally:
        torch.set_num_threads(1)


def test_rows_of_the_unet_are_the_same_on_one_thread_and_two(starter: StableDiffusion) -> None:
    def rows() -> list[torch.Tensor]:
        return [unet_row(starter, size, size - 1, (16, 16)) for size in (1, 2, 8)]

    for own, other in itertools.product(rows(), on_threads(2, rows)):
        assert torch.equal(own, other)


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize(("count", "inputs", "outputs"), [(4, 320, 320), (64, 1280, 320)])
def test_a_linear_layer_is_the_same_on_any_threads(
    threads: int, count: int, inputs: int, outputs: int
) -> None:
    layer, rows = linear(inputs, outputs), drawn(count, inputs)
    assert torch.equal(on_threads(threads, lambda: layer(rows)), layer(rows))


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_groups_are_the_same_on_any_threads(threads: int, count: int) -> None:
    layer = WholeGroupNorm(nn.GroupNorm(8, 64))
    rows = drawn(count, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    normalised = layer(rows)
    assert torch.equal(on_threads(threads, lambda: layer(rows)), normalised)
    [alone] = layer(rows[-1:])
    assert torch.equal(alone, normalised[-1])


def test_a_prepared_network_keeps_its_weights_and_its_results(sd15: StableDiffusion) -> None:
    with torch.random.fork_rng(devices=[]):
        plain = type(sd15.unet).from_config(sd15.unet.config).requires_grad_(False).eval()
    prepared = copy.deepcopy(plain)
    deterministic.prepare(prepared, vector_layers=UNET_VECTOR_LAYERS)
    kinds = {type(module) for module in prepared.modules()}
    assert {PackedConv2d, RowwiseLinear, WholeGroupNorm} <= kinds
    assert not {nn.Conv2d, nn.GroupNorm} & kinds
    before, after = plain.state_dict(), prepared.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows, text, steps = drawn(2, 4, 8, 8), drawn(2, 77, 32), torch.tensor([1.0, 900.0])
    ours, theirs = (
        network(rows, steps, encoder_hidden_states=text).sample for network in (prepared, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_what_is_to_be_compiled_keeps_its_convolutions() -> None:
    network = nn.ModuleDict({"conv": convolution(CONVOLUTIONS[0]), "time_emb_proj": linear(4, 4)})
    deterministic.prepare(network, vector_layers=UNET_VECTOR_LAYERS, pack=False)
    assert type(network["conv"]) is nn.Conv2d
    assert type(network["time_emb_proj"]) is RowwiseLinear


def test_half_precision_and_other_paddings_are_left_alone() -> None:
    half = nn.ModuleDict({"conv": convolution(CONVOLUTIONS[0]), "time_emb_proj": linear(4, 4)})
    half.to(torch.bfloat16)
    deterministic.prepare(half, vector_layers=UNET_VECTOR_LAYERS)
    assert [type(module) for module in half.values()] == [nn.Conv2d, nn.Linear]
    other = nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")})
    other["same"] = nn.Conv2d(2, 2, 3, padding="same")
    deterministic.prepare(other)
    assert [type(module) for module in other.values()] == [nn.Conv2d, nn.Conv2d]
