"""A diffusers pipeline written as people share checkpoints: in one file, with other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "down_blocks": "down",
    "up_blocks": "up",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "mid_block.block.0": "mid.block_1",
    "mid_block.block.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


OPEN_CLIP = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}


def write_single_file(pipeline: StableDiffusionPipeline, file: Path) -> None:
    """Write the pipeline's weights under the names of Stable Diffusion's first release."""
    tensors = _networks(pipeline)
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name}"] = tensor
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)


def write_sd2_file(pipeline: StableDiffusionPipeline, file: Path) -> None:
    """Write the pipeline's weights under the names of Stable Diffusion 2's first release.

    The file has a last layer of the text encoder that nobody reads, as the release has.
    """
    tensors = _networks(pipeline)
    state = pipeline.text_encoder.state_dict().items()
    for name, tensor in open_clip({f"text_model.{key}": value for key, value in state}).items():
        tensors[f"cond_stage_model.model.{name}"] = tensor
    width = pipeline.text_encoder.config.hidden_size
    tensors["cond_stage_model.model.text_projection"] = torch.zeros(width, width)
    tensors["cond_stage_model.model.transformer.resblocks.23.ln_1.bias"] = torch.zeros(width)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)


def write_sdxl_file(pipeline: StableDiffusionXLPipeline, file: Path) -> None:
    """Write the pipeline's weights under the names of Stable Diffusion XL's first release."""
    tensors = _networks(pipeline)
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{name}"] = tensor
    for name, tensor in open_clip(pipeline.text_encoder_2.state_dict()).items():
        tensors[f"conditioner.embedders.1.model.{name}"] = tensor
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)


def open_clip(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a text encoder under the names of OpenCLIP."""
    tensors = {"logit_scale": torch.tensor(4.6)}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            tensors["text_projection"] = tensor.T
        elif match := re.fullmatch(r"(.*self_attn[.])q_proj[.](weight|bias)", name):
            three = (state[f"{match[1]}{part}_proj.{match[2]}"] for part in "qkv")
            tensors[f"{renamed(match[1], OPEN_CLIP)}in_proj_{match[2]}"] = torch.cat([*three])
        elif not re.search(r"[kv]_proj", name):
            tensors[renamed(name, OPEN_CLIP)] = tensor
    return tensors


def _networks(
    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
) -> dict[str, torch.Tensor]:
    """Return the tensors of the UNet and the autoencoder."""
    tensors: dict[str, torch.Tensor] = {}
    layers = pipeline.unet.config.layers_per_block
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{unet_name(name, layers)}"] = tensor
    ups = len(pipeline.vae.config.up_block_types)
    for name, tensor in pipeline.vae.state_dict().items():
        tensors[f"first_stage_model.{vae_name(name, ups)}"] = tensor
    return tensors


def unet_name(name: str, layers: int) -> str:
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        side, block, kind, index, rest = found.groups()
        first = int(block) * (layers + 1) + (side == "down")
        outer = "input_blocks" if side == "down" else "output_blocks"
        if kind == "downsamplers":
            return f"{outer}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            # The second place of a block is its attention's, in the first block of the tests.
            return f"{outer}.{first + layers}.2.{rest}"
        if kind == "attentions":
            return f"{outer}.{first + int(index)}.1.{rest}"
        return f"{outer}.{first + int(index)}.0.{renamed(rest, RESNET)}"
    for new, old in UNET_ENDS.items():
        if name.startswith(f"{new}."):
            rest = name.removeprefix(f"{new}.")
            return f"{old}.{renamed(rest, RESNET) if 'resnets' in new else rest}"
    raise AssertionError(name)


def vae_name(name: str, ups: int) -> str:
    if found := re.match(r"decoder\.up_blocks\.(\d+)\.", name):
        name = name.replace(found[0], f"decoder.up_blocks.{ups - 1 - int(found[1])}.")
    return renamed(name, VAE)


def renamed(name: str, names: Mapping[str, str]) -> str:
    for new, old in names.items():
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.|$)", rf"\g<1>{old}", name)
    return name
