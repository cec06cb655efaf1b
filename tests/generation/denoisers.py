"""Files that hold only a denoiser, as people share them: GGUF, and .safetensors of ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file


def folder_tensors(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a part in the layout of diffusers, from one file or several."""
    files = sorted((folder / part).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def write_gguf(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    kind: str = "Q8_0",
    architecture: str = "lumina2",
) -> Path:
    """Write matrices that are made of whole blocks as `kind`, and all else as plain numbers."""
    quantized = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[quantized]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_array("some.words", ["a", "cat"])
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        # diffusers cannot read a quantised vector, as the tokens for padding are.
        if tensor.ndim == 2 and len(tensor) > 1 and tensor.shape[1] % block == 0:
            data = _quantized(numbers, quantized)
            writer.add_tensor(name, data, raw_dtype=quantized)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantized(numbers: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    try:
        return gguf.quants.quantize(numbers, kind)
    except NotImplementedError:
        return _random_blocks(numbers, kind)


def _random_blocks(numbers: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Return any blocks of a type that the library only reads; their scales are small numbers."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = numbers.shape
    blocks = np.random.default_rng(0).integers(0, 256, (rows, columns // block, size), np.uint8)
    scale = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    # The scales are two numbers at the start of a block, or one at the end.
    if kind.name in ("Q4_K", "Q5_K"):
        blocks[:, :, 0:2] = blocks[:, :, 2:4] = scale
    else:
        assert kind.name == "Q6_K"
        blocks[:, :, -2:] = scale
    return blocks.reshape(rows, -1)


def write_plain(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a .safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def as_comfyui_z_image(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a Z-Image transformer by ComfyUI's names: q, k and v are one matrix."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        layer, attention, _ = name.partition(".attention.to_q.weight")
        if attention:
            three = [tensors[f"{layer}.attention.to_{letter}.weight"] for letter in "qkv"]
            found[f"{layer}.attention.qkv.weight"] = torch.cat(three)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            found[_comfyui_z_image_name(name)] = tensor
    return found


def _comfyui_z_image_name(name: str) -> str:
    for diffusers, comfyui in {
        "all_final_layer.2-1.": "final_layer.",
        "all_x_embedder.2-1.": "x_embedder.",
        ".attention.to_out.0.": ".attention.out.",
        ".attention.norm_q.": ".attention.q_norm.",
        ".attention.norm_k.": ".attention.k_norm.",
    }.items():
        name = name.replace(diffusers, comfyui)
    return name


_KLEIN: Final = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "proj_out": "final_layer.linear",
}
_KLEIN_BLOCK: Final = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_KLEIN_SINGLE: Final = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
_JOINED: Final = {
    "attn.to_q": ("img_attn.qkv", ("to_q", "to_k", "to_v")),
    "attn.add_q_proj": ("txt_attn.qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
}


def as_comfyui_klein(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a klein transformer by the names of its release."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        first, _, rest = module.partition(".")
        number, _, inner = rest.partition(".")
        if module == "norm_out.linear":
            scale, shift = tensor.chunk(2)
            found["final_layer.adaLN_modulation.1.weight"] = torch.cat([shift, scale])
        elif first == "single_transformer_blocks":
            kind = "scale" if ".norm_" in inner else kind
            found[f"single_blocks.{number}.{_KLEIN_SINGLE[inner]}.{kind}"] = tensor
        elif first == "transformer_blocks" and inner in _JOINED:
            joined, names = _JOINED[inner]
            three = [tensors[f"{first}.{number}.attn.{single}.weight"] for single in names]
            found[f"double_blocks.{number}.{joined}.weight"] = torch.cat(three)
        elif first == "transformer_blocks" and inner in _KLEIN_BLOCK:
            kind = "scale" if ".norm_" in inner else kind
            found[f"double_blocks.{number}.{_KLEIN_BLOCK[inner]}.{kind}"] = tensor
        elif first != "transformer_blocks":
            found[f"{_KLEIN[module]}.{kind}"] = tensor
    return found
