"""LoRA files that are wrong, and names of tensors as trainers write them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import LoraError
from generation.models.adapters import merging
from generation.models.adapters.adapter import Adapter, Change
from generation.models.adapters.conversion import convert_unet
from generation.models.adapters.fitting import fitted
from generation.models.adapters.grafting import with_layers
from generation.models.adapters.layouts import LayerIndex, is_adapter, split_name
from generation.models.adapters.merging import merge
from generation.models.adapters.reading import read_adapter
from generation.models.networks.deterministic import is_weighted
from generation.models.stable_diffusion import StableDiffusion

from .. import loras

Change_ = Callable[[loras.Tensors], object]


def read(model: StableDiffusion, file: Path) -> Adapter:
    shapes = {
        part: {
            name: module.weight.shape  # type: ignore[union-attr]
            for name, module in network.named_modules()
            if is_weighted(module)
        }
        for part, network in model.adaptable.items()
    }
    return read_adapter(file, file.stem, shapes, model.convert_lora, "small")


def few(model: StableDiffusion) -> list[loras.Layer]:
    return loras.layers({"unet": model.unet}, only="attn1.to_q")


def first(tensors: loras.Tensors, end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


def set_nan(tensors: loras.Tensors) -> None:
    tensors[first(tensors, "lora_up.weight")][0, 0] = torch.nan


def drop_up(tensors: loras.Tensors) -> None:
    del tensors[first(tensors, "lora_up.weight")]


def widen(tensors: loras.Tensors) -> None:
    name = first(tensors, "lora_down.weight")
    tensors[name] = torch.ones(loras.RANK, tensors[name].shape[1] + 1)


def rename(tensors: loras.Tensors) -> None:
    name = first(tensors, "lora_down.weight")
    tensors[name.replace("_to_q", "_to_nowhere")] = tensors.pop(name)


def add_difference(tensors: loras.Tensors) -> None:
    tensors["lora_unet_conv_in.diff_b"] = torch.ones(3)


def add_tucker(tensors: loras.Tensors) -> None:
    tensors["lora_unet_conv_in.lora_mid.weight"] = torch.ones(3, 3, 3, 3)


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (set_nan, "not finite"),
            (drop_up, "does not fit small"),
            (widen, "does not fit small"),
            (rename, "another kind of model than small"),
            (add_difference, "of a kind that cannot be used"),
            (add_tucker, "of a kind that cannot be used"),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_each_is_refused_in_one_sentence(
        self, sd15: StableDiffusion, tmp_path: Path, spoil: Change_, said: str
    ) -> None:
        tensors = loras.kohya(few(sd15))
        spoil(tensors)
        file = loras.save(tensors, tmp_path / "ink.safetensors")
        with pytest.raises(LoraError, match=said) as refused:
            read(sd15, file)
        assert "LoRA ink" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_lora_for_sdxl_is_for_another_kind_of_model(
        self, sd15: StableDiffusion, tmp_path: Path
    ) -> None:
        name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
        tensors = {
            f"{name}.lora_down.weight": torch.ones(4, 2_048),
            f"{name}.lora_up.weight": torch.ones(640, 4),
        }
        file = loras.save(tensors, tmp_path / "xl.safetensors")
        with pytest.raises(LoraError, match="another kind of model"):
            read(sd15, file)

    def test_a_checkpoint_is_no_lora(self, sd15: StableDiffusion, tmp_path: Path) -> None:
        file = loras.save(dict(sd15.unet.state_dict()), tmp_path / "unet.safetensors")
        with pytest.raises(LoraError, match="holds no LoRA"):
            read(sd15, file)

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", struct.pack("<Q", 2**40) + b"{}"])
    def test_a_file_that_is_none_is_one_sentence(
        self, sd15: StableDiffusion, tmp_path: Path, data: bytes
    ) -> None:
        file = tmp_path / "cut.safetensors"
        file.write_bytes(data)
        with pytest.raises(LoraError, match="cannot be loaded"):
            read(sd15, file)

    def test_a_header_that_promises_too_much_takes_no_memory(
        self, sd15: StableDiffusion, tmp_path: Path
    ) -> None:
        file = tmp_path / "large.safetensors"
        size = 2**33
        header = (
            b'{"lora_unet_conv_in.lora_up.weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
            % (size, size)
        )
        with file.open("wb") as opened:
            opened.write(struct.pack("<Q", len(header)) + header)
            opened.truncate(8 + len(header) + size)
        with pytest.raises(LoraError, match="more than 1,073,741,824"):
            read(sd15, file)

    def test_a_merge_that_overflows_is_refused(self) -> None:
        change = Change({"lora_A": torch.full((1, 2), 1e30), "lora_B": torch.full((2, 1), 1e30)})
        with pytest.raises(LoraError, match="smaller weights"):
            merge(torch.ones(2, 2), [(change, 1.0)])
        small = Change({"lora_A": torch.full((1, 2), 1e3), "lora_B": torch.full((2, 1), 1e3)})
        with pytest.raises(LoraError, match="smaller weights"):
            merge(torch.ones(2, 2, dtype=torch.float16), [(small, 1.0)])


class TestMerging:
    """Each kind beside its paper's formula, written out."""

    def test_a_lora_is_its_product_by_alpha_and_rank(self) -> None:
        weight, down, up = torch.randn(6, 4), torch.randn(2, 4), torch.randn(6, 2)
        change = Change({"lora_A": down, "lora_B": up}, alpha=1.0)
        expected = weight + 0.7 * (1.0 / 2) * up @ down
        torch.testing.assert_close(merge(weight, [(change, 0.7)]), expected)

    def test_a_lokr_is_a_kronecker_product_scaled_only_if_it_is_decomposed(self) -> None:
        weight, small, large = torch.randn(6, 8), torch.randn(2, 4), torch.randn(3, 2)
        whole = fitted(Change({"lokr_w1": small, "lokr_w2": large}, alpha=9.0), weight.shape)
        assert whole is not None
        expected = weight + 0.5 * torch.kron(small, large)
        torch.testing.assert_close(merge(weight, [(whole, 0.5)]), expected)
        first, second = torch.randn(3, 1), torch.randn(1, 2)
        tensors = {"lokr_w1": small, "lokr_w2_a": first, "lokr_w2_b": second}
        split = fitted(Change(tensors, alpha=3.0), weight.shape)
        assert split is not None
        expected = weight + 0.5 * 3.0 * torch.kron(small, first @ second)
        torch.testing.assert_close(merge(weight, [(split, 0.5)]), expected)

    def test_a_loha_of_a_convolution_is_a_product_by_elements(self) -> None:
        weight = torch.randn(6, 4, 3, 3)
        sides = {"a": (6, 2), "b": (2, 36)}
        tensors = {
            f"hada_w{factor}_{side}": torch.randn(shape)
            for factor in (1, 2)
            for side, shape in sides.items()
        }
        change = fitted(Change(tensors, alpha=1.0), weight.shape)
        assert change is not None
        first, second = (tensors[f"hada_w{n}_a"] @ tensors[f"hada_w{n}_b"] for n in (1, 2))
        expected = weight + 0.5 * (first * second).reshape(weight.shape)
        torch.testing.assert_close(merge(weight, [(change, 1.0)]), expected)

    @pytest.mark.parametrize("shape", [(6, 1), (6,)])
    def test_a_dora_of_lycoris_gives_each_row_its_length(self, shape: tuple[int, ...]) -> None:
        weight, down, up = torch.randn(6, 4), torch.randn(2, 4), torch.randn(6, 2)
        length = torch.rand(6) + 0.5
        tensors = {"lora_A": down, "lora_B": up, "lora_magnitude_vector": length.reshape(shape)}
        change = fitted(Change(tensors), weight.shape)
        assert change is not None
        moved = weight + up @ down
        expected = length.unsqueeze(1) * moved / moved.norm(dim=1, keepdim=True)
        torch.testing.assert_close(merge(weight, [(change, 1.0)]), expected)

    def test_lengths_of_columns_are_refused(self) -> None:
        tensors = {
            "lora_A": torch.ones(2, 6),
            "lora_B": torch.ones(6, 2),
            "lora_magnitude_vector": torch.ones(1, 6),
        }
        assert fitted(Change(tensors), torch.Size((6, 6))) is None

    def test_the_global_random_state_is_left_alone(self) -> None:
        before = torch.random.get_rng_state()
        for kind in ("lora", "loha", "lokr"):
            merging._layer.__wrapped__(kind, is_matrix=True, is_dora=False)
        assert torch.equal(torch.random.get_rng_state(), before)


class TestNames:
    @given(st.text())
    def test_any_name_is_split_or_refused(self, name: str) -> None:
        split = split_name(name)
        assert split is None or name.startswith(split.layer)
        assert is_adapter([f"{name}.lora_A.weight"]) == bool(name)

    def test_stability_s_names_are_those_that_diffusers_converts(self) -> None:
        config = {"layers_per_block": 2}
        written = {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
            ),
            "lora_unet_input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
            "lora_unet_middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
            "lora_unet_output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
            "diffusion_model.output_blocks.3.1.transformer_blocks.0.ff.net.2": (
                "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
            ),
        }
        ends = (".lora_down.weight", ".hada_w1_a", ".alpha")
        tensors = {layer + end: torch.zeros(1) for layer in written for end in ends}
        converted = convert_unet(tensors, config)
        expected = {f"unet.{layer}{end}" for layer in written.values() for end in ends}
        assert converted.keys() == expected

    def test_every_layer_of_a_model_is_found_by_each_of_its_names(
        self, sd15: StableDiffusion
    ) -> None:
        found = loras.layers(dict(sd15.adaptable))
        names: dict[str, list[str]] = {}
        for layer in found:
            names.setdefault(layer.part, []).append(layer.name)
        index = LayerIndex(names)
        for layout in (loras.kohya, loras.peft, loras.diffusers):
            targets = {index.target(name) for name in layout(found)}
            assert None not in targets
            layers = {(target.part, target.layer) for target in targets if target is not None}
            assert layers == {(layer.part, layer.name) for layer in found}


class TestGrafting:
    def test_a_graft_shares_all_that_is_not_changed(self, sd15: StableDiffusion) -> None:
        unet: UNet2DConditionModel = sd15.unet
        name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        new = torch.nn.Linear(1, 1)
        grafted = with_layers(unet, {name: new})
        assert grafted.get_submodule(name) is new
        assert unet.get_submodule(name) is not new
        assert grafted.get_submodule("down_blocks") is unet.down_blocks
        assert grafted.get_submodule("mid_block.resnets") is unet.mid_block.resnets
        others = [key for key, _ in unet.named_parameters() if not key.startswith(name)]
        mine, theirs = dict(grafted.named_parameters()), dict(unet.named_parameters())
        assert all(mine[key] is theirs[key] for key in others)
