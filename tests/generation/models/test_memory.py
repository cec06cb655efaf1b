"""What a model needs of a card, from headers and shapes; and which network is where."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from generation.catalog.memory.savings import Offload, Savings
from generation.catalog.memory.sizes import PartSize, on_card
from generation.engine.engine import Engine
from generation.errors import ModelError
from generation.models.loading import decoding_bytes, expected_bytes, load, sizes_of
from generation.models.locate import locate
from generation.models.networks.measuring import peak_bytes
from generation.models.networks.placement import bring_one_at_a_time

from ..denoisers import folder_tensors, write_gguf
from ..examples import a_request

MEGABYTE = 2**20
FAMILIES = ("sd15", "sdxl", "klein", "z_image", "sd3")


def empty(megabytes: int) -> torch.Tensor:
    return torch.empty(megabytes * MEGABYTE, dtype=torch.uint8, device="meta")


class TestPeak:
    def test_it_counts_what_is_there_at_the_same_time(self) -> None:
        def call() -> torch.Tensor:
            first = empty(4)
            second = first + 1
            del first
            third = second + 1
            del second
            return third + 1

        assert peak_bytes(call) == 8 * MEGABYTE

    def test_a_view_and_a_change_in_place_take_nothing(self) -> None:
        def call() -> None:
            first = empty(4)
            first[: 2**10].view(2, -1).add_(1)
            first.mul_(2)

        assert peak_bytes(call) == 4 * MEGABYTE

    def test_attention_holds_no_matrix(self) -> None:
        query = torch.empty(1, 1, 4096, 64, device="meta")

        def call() -> None:
            functional.scaled_dot_product_attention(query, query, value=query)

        assert peak_bytes(call) == query.untyped_storage().nbytes()

    def test_a_convolution_is_what_its_output_is(self) -> None:
        layer = nn.Conv2d(4, 8, 3, padding=1, device="meta")
        rows = torch.empty(2, 4, 64, 64, device="meta")
        assert peak_bytes(lambda: layer(rows)) == 2 * 8 * 64 * 64 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_in_the_headers_are_those_of_the_loaded_networks(
    request: pytest.FixtureRequest, family: str
) -> None:
    model: Any = request.getfixturevalue(family)
    sizes = sizes_of(model.profile, torch.float32)
    for part, size in sizes.items():
        weights = getattr(model, part).state_dict().values()
        loaded = sum(weight.numel() * weight.element_size() for weight in weights)
        assert loaded <= size.plain < 1.1 * loaded
        assert size.int8 < size.plain
    half = sizes_of(model.profile, torch.bfloat16)
    assert all(2 * half[part].plain == sizes[part].plain for part in sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_takes_less_in_half_precision_and_in_tiles(
    request: pytest.FixtureRequest, family: str
) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    profile = locate(str(folder))
    whole = decoding_bytes(profile, torch.float32)
    # The picture alone has 3 numbers a pixel, and the last layers 8.
    assert whole > 4 * 8 * profile.native_size**2
    assert decoding_bytes(profile, torch.bfloat16) == pytest.approx(whole / 2, rel=0.1)
    tiled = dataclasses.replace(profile, savings=Savings(decoder_tile=32))
    assert decoding_bytes(tiled, torch.float32) < whole / 2


def test_offload_and_int8_are_counted() -> None:
    sizes = {
        "text_encoder": PartSize(800, 400, 80),
        "transformer": PartSize(1200, 600, 90),
        "vae": PartSize(100, 50, 10),
    }
    assert on_card(sizes, Savings()) == 2100
    assert on_card(sizes, Savings(offload="model")) == 1200
    assert on_card(sizes, Savings(offload="sequential")) == 90
    assert on_card(sizes, Savings(quantize="int8")) == 1100
    assert on_card(sizes, Savings(quantize="int8", offload="model")) == 600


def test_a_gguf_takes_what_its_blocks_take(z_image_folder: Path, tmp_path: Path) -> None:
    tensors = folder_tensors(z_image_folder, "transformer")
    file = write_gguf(tmp_path / "z.gguf", tensors, kind="Q4_0")
    profile = locate(str(file), base=str(z_image_folder))
    size = sizes_of(profile, torch.float32)["transformer"]
    plain = sizes_of(locate(str(z_image_folder)), torch.float32)["transformer"]
    assert size.int8 == size.plain < plain.plain / 4
    model: Any = load(profile, device="cpu", dtype="float32")
    # Layers that get one vector a row are stored in full on a CPU.
    weights = [w for n, w in model.transformer.named_parameters() if "adaLN" not in n]
    assert sum(w.numel() * w.element_size() for w in weights if hasattr(w, "quant_type")) > 0
    assert expected_bytes(profile, device="cpu", dtype="float32") > size.plain


# It stands for the card: torch knows the device, and every machine has it.
CARD = torch.device("meta")


class Recorded(nn.Module):
    """A network that writes down who is on the card when it computes."""

    def __init__(self, name: str, log: list[tuple[str, ...]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.name, self.log = name, log
        self.where = torch.device("cpu")

    def to(self, device: torch.device) -> Recorded:  # type: ignore[override]
        self.where = torch.device(device)
        self.weight = nn.Parameter(torch.ones(2, device=self.where))
        return self


def test_one_network_at_a_time_is_on_the_card() -> None:
    log: list[tuple[str, ...]] = []
    networks = [Recorded(name, log) for name in ("text_encoder", "unet", "vae")]

    def seen() -> list[str]:
        return [network.name for network in networks if network.where == CARD]

    for network in networks:
        network.forward = lambda: log.append(tuple(seen()))  # type: ignore[method-assign]
    bring_one_at_a_time(networks, CARD)
    text_encoder, unet, vae = networks
    assert seen() == []
    for network in (text_encoder, unet, unet, text_encoder, unet, vae):
        network()
    assert log == [
        ("text_encoder",),
        ("unet",),
        ("unet",),
        ("text_encoder",),
        ("unet",),
        ("vae",),
    ]


class Halfway(Recorded):
    """A network of two weights; the card is full when the first one has moved, the first time."""

    def __init__(self, name: str, log: list[tuple[str, ...]]) -> None:
        super().__init__(name, log)
        self.second = nn.Parameter(torch.ones(2))
        self.is_full = True

    def to(self, device: torch.device) -> Halfway:  # type: ignore[override]
        super().to(device)
        if self.is_full and self.where == CARD:
            self.is_full = False
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.second = nn.Parameter(torch.ones(2, device=self.where))
        return self

    def forward(self) -> set[torch.device]:
        return {weight.device for weight in self.parameters()}


def test_a_network_that_does_not_fit_on_the_card_leaves_no_weight_there() -> None:
    unet = Halfway("unet", [])
    bring_one_at_a_time([unet, Recorded("vae", [])], CARD)
    with pytest.raises(torch.OutOfMemoryError):
        unet()
    assert {weight.device.type for weight in unet.parameters()} == {"cpu"}
    assert unet() == {CARD}


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("family", FAMILIES)
def test_offload_changes_no_pixel_of_any_family(
    request: pytest.FixtureRequest, family: str, offload: Offload
) -> None:
    plain: Any = request.getfixturevalue(family)
    profile = dataclasses.replace(plain.profile, savings=Savings(offload=offload))
    model: Any = load(profile, device="cpu", dtype="float32")
    asked = a_request(scheduler=profile.default_scheduler, steps=2, guidance_scale=4.0)
    made = Engine(model, shared=False).generate(asked)[0]
    assert made.pixels == Engine(plain, shared=False).generate(asked)[0].pixels
    if offload == "sequential":
        devices = {weight.device.type for weight in model.vae.parameters()}
        assert devices == {"meta"}


def test_an_offloaded_model_is_not_compiled(sd15_folder: Path) -> None:
    profile = dataclasses.replace(locate(str(sd15_folder)), savings=Savings(offload="model"))
    with pytest.raises(ModelError, match="set compile = false"):
        load(profile, device="cpu", compiled=True)
