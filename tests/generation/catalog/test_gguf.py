"""Files that hold only a denoiser: what is read of their headers, and what is refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from generation.catalog.memory.denoiser import read_denoiser
from generation.catalog.memory.gguf import read_gguf_header, tensor_bytes
from generation.errors import ModelError
from generation.models.loading import load
from generation.models.locate import locate

from ..denoisers import as_comfyui_z_image, folder_tensors, write_gguf, write_plain
from ..hub import Client, Hub

MAGIC = b"GGUF" + struct.pack("<I", 3)
U32, ARRAY, STRING = 4, 9, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, sizes: tuple[int, ...], kind: int, start: int) -> bytes:
    head = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + head + struct.pack("<IQ", kind, start)


def header(tensors: int, keys: int, *parts: bytes) -> bytes:
    return MAGIC + struct.pack("<QQ", tensors, keys) + b"".join(parts)


HUGE = 2**60
BROKEN = {
    "no file of the kind": b"PK\3\4" + bytes(100),
    "an old version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "absurdly many tensors": header(HUGE, 0),
    "absurdly many keys": header(0, HUGE),
    "a text without end": header(0, 1, struct.pack("<Q", HUGE)),
    "a list without end": header(0, 1, entry("a", ARRAY, struct.pack("<IQ", U32, HUGE))),
    "texts without end": header(0, 1, entry("a", ARRAY, struct.pack("<IQ", STRING, HUGE))),
    "a list of lists": header(0, 1, entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))),
    "an unknown kind of value": header(0, 1, entry("a", 77, b"")),
    "an odd alignment": header(0, 1, entry("general.alignment", U32, struct.pack("<I", 3))),
    "no dimension": header(1, 0, tensor("a", (), 0, 0)),
    "too many dimensions": header(1, 0, tensor("a", (1,) * 5, 0, 0)),
    "an unknown type of tensor": header(1, 0, tensor("a", (32,), 999, 0)),
    "half a block": header(1, 0, tensor("a", (16,), 2, 0)) + bytes(64),
    "a tensor larger than the file": header(1, 0, tensor("a", (HUGE,), 0, 0)),
    "a tensor twice": header(2, 0, tensor("a", (8,), 0, 0), tensor("a", (8,), 0, 32)) + bytes(200),
    "shared bytes": header(2, 0, tensor("a", (16,), 0, 0), tensor("b", (16,), 0, 32)) + bytes(300),
    "a shape that is a text": header(
        0, 1, entry("comfy.gguf.orig_shape.a", ARRAY, struct.pack("<IQ", STRING, 2))
    ),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_is_refused_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"^.*m\.gguf cannot be loaded \(.+\); download") as caught:
        read_denoiser(file)
    assert len(str(caught.value)) < 400


def test_any_cut_and_any_changed_byte_is_a_header_or_a_sentence(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", {"a": torch.ones(4, 32), "b": torch.ones(3)})
    data, file = whole.read_bytes(), tmp_path / "m.gguf"
    draws = random.Random(0)
    for _ in range(400):
        changed = bytearray(data[: draws.randrange(len(data) + 1)])
        for _ in range(draws.randrange(3) if changed else 0):
            changed[draws.randrange(len(changed))] = draws.randrange(256)
        file.write_bytes(changed)
        try:
            read_denoiser(file)
        except ModelError as error:
            assert str(error).startswith(str(file))  # noqa: PT017 - not each one is broken


def test_the_library_reads_the_same_header(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(4, 256), "b": torch.ones(3), "c": torch.ones(2, 3, 4)}
    file = write_gguf(tmp_path / "m.gguf", tensors, kind="Q4_K", architecture="flux")
    found = read_gguf_header(file)
    for known in gguf.GGUFReader(file).tensors:
        info = found.tensors[known.name]
        assert info.dtype == known.tensor_type.name
        assert info.shape == tuple(reversed(known.shape.tolist()))
        assert tensor_bytes(info) == known.n_bytes
    assert found.texts["general.architecture"] == "flux"
    assert read_denoiser(file).quantization == "Q4_K"


def test_a_matrix_that_was_laid_out_in_whole_blocks_gets_its_shape_back(
    sd15_folder: Path, tmp_path: Path
) -> None:
    tensors = folder_tensors(sd15_folder, "unet")
    file, name = tmp_path / "sd.gguf", "down_blocks.1.resnets.0.conv1.weight"
    writer = gguf.GGUFWriter(file, "sd1")
    writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensors[name].shape))
    kind = gguf.GGMLQuantizationType.Q8_0
    for key, one in tensors.items():
        numbers = one.numpy()
        if key == name:
            data = gguf.quants.quantize(numbers.reshape(-1, 256), kind)
            writer.add_tensor(key, data, raw_dtype=kind)
        else:
            writer.add_tensor(key, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model: Any = load(locate(str(file), base=str(sd15_folder)), device="cpu", dtype="float32")
    found = model.unet.get_submodule(name.removesuffix(".weight")).weight
    assert found.shape == tensors[name].shape
    assert 0 < (found - tensors[name]).abs().max() < 0.01


def refused(file: Path, base: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(locate(str(file), base=str(base)), device="cpu", dtype="float32")
    return str(caught.value)


class TestWrongFiles:
    def test_another_architecture(self, sd15_folder: Path, tmp_path: Path) -> None:
        file = write_gguf(
            tmp_path / "llama.gguf",
            {"blk.0.attn_q.weight": torch.ones(32, 32)},
            architecture="llama",
        )
        assert refused(file, sd15_folder) == (
            f"{file} holds no UNet2DConditionModel (its architecture is 'llama'); choose a file of "
            "the same family of models as its base."
        )

    def test_another_family(self, klein_folder: Path, z_image_folder: Path, tmp_path: Path) -> None:
        tensors = as_comfyui_z_image(folder_tensors(z_image_folder, "transformer"))
        file = write_gguf(tmp_path / "z.gguf", tensors)
        assert "holds no Flux2Transformer2DModel" in refused(file, klein_folder)

    def test_a_tensor_less(self, sd15_folder: Path, tmp_path: Path) -> None:
        tensors = folder_tensors(sd15_folder, "unet")
        del tensors["conv_in.weight"]
        file = write_plain(tmp_path / "m.safetensors", tensors)
        assert "lacks 1 of the tensors" in refused(file, sd15_folder)

    def test_another_shape(self, z_image_folder: Path, tmp_path: Path) -> None:
        tensors = folder_tensors(z_image_folder, "transformer")
        name = "layers.0.attention.to_q.weight"
        file = write_gguf(tmp_path / "m.gguf", tensors | {name: torch.ones(32, 64)})
        assert "has 1 tensors of another shape" in refused(file, z_image_folder)

    def test_a_number_that_is_not_finite(self, z_image_folder: Path, tmp_path: Path) -> None:
        tensors = folder_tensors(z_image_folder, "transformer")
        tensors["cap_pad_token"][0, 0] = np.inf
        file = write_gguf(tmp_path / "m.gguf", tensors)
        assert "not finite" in refused(file, z_image_folder)

    def test_a_whole_checkpoint(self, sd15_folder: Path, tmp_path: Path) -> None:
        names = {"first_stage_model.a": torch.ones(1), "model.diffusion_model.a": torch.ones(1)}
        file = write_plain(tmp_path / "m.safetensors", names)
        assert "is a whole checkpoint; leave out `base`" in refused(file, sd15_folder)

    def test_a_base_that_is_a_file(self, sd15_folder: Path, tmp_path: Path) -> None:
        file = write_gguf(tmp_path / "m.gguf", folder_tensors(sd15_folder, "unet"))
        assert "is a single file" in refused(file, file)

    def test_no_base(self, tmp_path: Path) -> None:
        file = write_gguf(tmp_path / "m.gguf", {"a": torch.ones(1)})
        with pytest.raises(ModelError, match="set `base` to a folder or a hub id"):
            locate(str(file))

    def test_a_pickle(self, sd15_folder: Path) -> None:
        assert "is a pickle" in refused(Path("model.ckpt"), sd15_folder)

    def test_a_folder_with_a_base(self, sd15_folder: Path) -> None:
        assert "leave the base out" in refused(sd15_folder, sd15_folder)

    def test_no_library(
        self, sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write_gguf(tmp_path / "m.gguf", folder_tensors(sd15_folder, "unet"))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install 'imagine-bot[small]'" in refused(file, sd15_folder)


WITH_A_BASE = """
import sys
from generation.models.locate import locate
found = locate(sys.argv[1], base="owner/rabbit")
print(found.name, found.quantization, "torch" in sys.modules, "diffusers" in sys.modules)
"""


def test_the_weights_of_the_denoiser_are_not_downloaded_with_a_base(
    sd15_folder: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "small.gguf", folder_tensors(sd15_folder, "unet"))
    with Hub.running() as hub:
        hub.add_folder("owner/rabbit", sd15_folder)
        client = Client(hub, tmp_path / "home")
        # Looking for a model loads neither library, however it is stored.
        assert client.run(WITH_A_BASE, str(file)).split() == ["small", "Q8_0", "False", "False"]
        downloads = hub.downloads()
        assert "unet/config.json" in downloads
        assert "vae/diffusion_pytorch_model.safetensors" in downloads
        assert not any(name.startswith("unet/diffusion") for name in downloads)
        # The plain model wants them all the same.
        assert client.locate("owner/rabbit").error == ""
        assert "unet/diffusion_pytorch_model.safetensors" in hub.downloads()


def test_the_base_needs_no_weights_of_its_denoiser(sd15_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    for path in sd15_folder.rglob("*"):
        if (path.is_file() and path.parent.name != "unet") or path.name == "config.json":
            copy = base / path.relative_to(sd15_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    file = write_gguf(tmp_path / "sd.gguf", folder_tensors(sd15_folder, "unet"))
    first = load(locate(str(file), base=str(base)), device="cpu", dtype="float32")
    whole = load(locate(str(file), base=str(sd15_folder)), device="cpu", dtype="float32")
    assert first.weights_sha256 == whole.weights_sha256
