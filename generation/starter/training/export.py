"""From checkpoints to a model's folder in diffusers' layout, in float16, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ...libraries import quiet
from .learning.autoencoder import Reconstruction, trained
from .learning.diffusion import Denoiser
from .learning.networks import Shape, new_autoencoder, new_text_encoder, new_unet, noise_schedule
from .learning.progress import read, save
from .learning.vocabulary import read_tokenizer

# A strength of 0.6, which suits larger models, mixes the source with the prompt. The model never
# saw larger pictures in its training, and cannot make them.
DEFAULTS: Final = {"steps": 25, "guidance_scale": 2.5, "strength": 0.9, "max_size": 128}
# A file beside the weights with the progress of each part's training.
TRAINING: Final = "training.json"
_COUNTS: Final = ("step", "images")
# Each of these depends on the autoencoder with which it was begun.
_OF_A_TRAINING: Final = ("autoencoder.pt", "latents", "forms.pt", "reading.pt", "diffusion.pt")


def export(work: Path, folder: Path, shape: Shape) -> None:
    """Write the model that is trained in `work`, with its averaged weights, to `folder`.

    Raises:
        FileNotFoundError: a part is not trained yet.
    """
    state = read(work / "diffusion.pt")
    if state is None:
        raise FileNotFoundError(f"{work} holds no diffusion.pt; train the UNet first.")
    tokenizer = read_tokenizer(work / "tokenizer")
    network = Denoiser(new_unet(shape), new_text_encoder(shape, tokenizer))
    network.load_state_dict(state["average"])
    autoencoder = trained(shape, work)
    autoencoder.register_to_config(scaling_factor=state["facts"]["scale"])
    save_model(folder, autoencoder, network, tokenizer)
    _write_counts(work, folder, "autoencoder", "diffusion")


def park(work: Path, folder: Path, shape: Shape) -> None:
    """Write the weights so far in `work` to `folder`, for `adopt`.

    These are the autoencoder alone, or all that `export` writes. They take a tenth of the
    checkpoints' space, so they can be kept with the code. A text encoder without a UNet is not
    kept.

    Raises:
        FileNotFoundError: nothing is trained yet.
    """
    if (work / "diffusion.pt").is_file():
        export(work, folder, shape)
        return
    trained(shape, work).half().save_pretrained(folder / "vae")
    _write_counts(work, folder, "autoencoder")


def _write_counts(work: Path, folder: Path, *names: str) -> None:
    counts: dict[str, dict[str, int]] = {}
    for name in names:
        if (state := read(work / f"{name}.pt")) is not None:
            counts[name] = {count: state[count] for count in _COUNTS}
            counts[name] |= {"scenes": state["facts"]["scenes"]} if name == "diffusion" else {}
    (folder / TRAINING).write_text(json.dumps(counts, indent=2) + "\n", "utf-8")


def adopt(folder: Path, work: Path, shape: Shape) -> None:
    """Write the exported or parked weights in `folder` to `work`, as checkpoints.

    The checkpoints hold only the averaged weights. The optimizers start from nothing, and the
    learning rate is warmed up again.

    Raises:
        FileExistsError: `work` has checkpoints, or files that were made with them.
        ValueError: the networks in `folder` have another shape than those that are trained here, or
            another noise schedule.
    """
    if there := [name for name in _OF_A_TRAINING if (work / name).exists()]:
        raise FileExistsError(f"{work} holds {', '.join(there)}; move what is there away first.")
    counts = json.loads((folder / TRAINING).read_text("utf-8"))
    facts: dict[str, Any] = {"shape": asdict(shape)}
    vae = _part(AutoencoderKL, folder, "vae", new_autoencoder(shape))
    found = {"autoencoder": _adopted(Reconstruction(vae), counts["autoencoder"], facts)}
    if "diffusion" in counts:
        _check_noise(folder)
        untrained = new_text_encoder(shape, read_tokenizer(folder / "tokenizer"))
        network = Denoiser(
            _part(UNet2DConditionModel, folder, "unet", new_unet(shape)),
            _part(CLIPTextModel, folder, "text_encoder", untrained),
        )
        facts |= {"scale": vae.config.scaling_factor, "scenes": counts["diffusion"]["scenes"]}
        found["diffusion"] = _adopted(network, counts["diffusion"], facts)
        shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    for name, state in found.items():
        save(state, work / f"{name}.pt")


def _part(kind: Any, folder: Path, name: str, untrained: nn.Module) -> Any:
    """Return a part of the model in `folder`, if it has the shape of `untrained`."""
    with quiet():
        part = kind.from_pretrained(folder, subfolder=name, torch_dtype=torch.float32)
    if _shapes(part) != _shapes(untrained):
        raise ValueError(
            f"The {name} in {folder} is of another shape than what is trained here; "
            "adopt a model of this version, or begin with none."
        )
    return part


def _check_noise(folder: Path) -> None:
    """Raise ValueError unless the model in `folder` has the schedule that is trained here."""
    there = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    if not torch.equal(there.betas, noise_schedule().betas):
        raise ValueError(
            f"The model in {folder} is for another schedule of noise than is trained here; "
            "adopt a model of this version, or begin with none."
        )


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.named_parameters()}


def _adopted(
    network: nn.Module, counts: Mapping[str, int], facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "network": network.state_dict(),
        "average": {name: value.detach() for name, value in network.named_parameters()},
        "optimizers": None,
        **{count: counts[count] for count in _COUNTS},
        "decay_from": None,
        "warm_from": counts["step"],
        "facts": dict(facts),
    }


def save_model(folder: Path, autoencoder: Any, network: Denoiser, tokenizer: Any) -> None:
    """Write the four parts, the scheduler's settings and the defaults to `folder`."""
    with quiet():
        # diffusers loads this class at its first use, and then warns of missing torchvision.
        pipeline = diffusers.StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=network.text_encoder,
            tokenizer=tokenizer,
            unet=network.unet,
            # Trailing: the first timestep is always the last of training, which is noise alone.
            scheduler=noise_schedule(
                DDIMScheduler,
                set_alpha_to_one=False,
                steps_offset=1,
                timestep_spacing="trailing",
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
    _tighten(folder / "tokenizer" / "tokenizer.json")
    (folder / "defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", "utf-8")


def _tighten(file: Path) -> None:
    """Write the JSON in `file` without spaces, which halves the file of a tokenizer."""
    found = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")), "utf-8")
