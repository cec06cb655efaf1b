"""The configs of a model, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from ..values.request import (
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    SIZE_MAX,
    SIZE_MIN,
    STEPS_MAX,
    STRENGTH_MAX,
    STRENGTH_MIN,
)
from ..values.spelling import NAME_LENGTH
from . import bounds
from .files import (
    DEFAULTS,
    EMOJI,
    INDEX,
    SCHEDULER_CONFIG,
    STABLE_DIFFUSION,
    list_folder,
    read_config,
    select_files,
)

DEFAULT_STEPS: Final = 30
DEFAULT_GUIDANCE_SCALE: Final = 7.5
DEFAULT_STRENGTH: Final = 0.6
# Far above its own size a model is slow and its pictures are bad.
_NATIVE_TIMES: Final = 2
# The start, the end, and one token of text.
_FEWEST_TOKENS: Final = 3
# Stable Diffusion 1 has 0.18215, and all others are near 1.
_SCALING: Final = (1e-4, 1e4)
# CLIP has 77; the longest model made from it has 248.
_MOST_TOKENS: Final = 1_024
# There are about 4,000 emoji, of at most 10 characters.
_EMOJI_MOST: Final = 10_000
_EMOJI_LENGTH: Final = 32
_PREDICTIONS = frozenset({"epsilon", "v_prediction"})
# A UNet that sets one of these needs more than latents, a timestep and a prompt.
_MORE_CONDITIONS: Final = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """The properties of a model, read from its configs without loading its weights.

    `pipeline` is the class in model_index.json that the model is made for. `native_size`, the edge
    of its pictures, and `size_multiple` are in pixels. `token_limit` is the number of tokens of a
    text, start and end included; a prompt fills at most the first `prompt_limit`, the others are
    padding. Pictures of more than `default_max_size` pixels in width or height are seldom good.
    `emoji` holds the names of the emoji that the model knows.
    """

    name: str
    pipeline: str
    folder: Path
    native_size: int
    size_multiple: int
    token_limit: int
    prompt_limit: int
    default_steps: int
    default_guidance_scale: float
    default_strength: float
    default_max_size: int
    prediction_type: str
    scheduler_config: Mapping[str, Any] = field(repr=False)
    emoji: Mapping[str, str] = field(repr=False)


def profile(folder: Path, name: str, *, prediction_type: str | None = None) -> ModelProfile:
    """Return the profile of the model in `folder`, after checking that the model can be used.

    `prediction_type` is as in `locate`.

    Raises:
        ModelError: the folder holds no complete Stable Diffusion model with safetensors.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}; check the spelling of the model.")
    select_files(list_folder(folder), f"The model in {folder}")
    return read_configs(folder, name, prediction_type)


def read_configs(folder: Path, name: str, prediction_type: str | None) -> ModelProfile:
    """Do the same as `profile` for a folder whose weights may still be missing."""
    pipeline = _check_classes(folder)
    unet = _Config(folder, "unet/config.json")
    vae = _Config(folder, "vae/config.json")
    text_encoder = _Config(folder, "text_encoder/config.json")
    for network in (unet, vae, text_encoder):
        bounds.check_network(network.path, network.values)
    _check_networks(unet, vae, text_encoder)
    scheduler = _Config(folder, SCHEDULER_CONFIG)
    bounds.check_scheduler(scheduler.path, scheduler.values)
    if prediction_type is not None:
        scheduler.values["prediction_type"] = prediction_type
    vae_factor = 2 ** (len(vae.sizes("block_out_channels")) - 1)
    native_size = _native_size(unet, vae_factor)
    steps, guidance_scale, strength, max_size = _defaults(folder, native_size)
    token_limit, prompt_limit = _token_limits(folder, text_encoder)
    return ModelProfile(
        name=name,
        pipeline=pipeline,
        folder=folder,
        native_size=native_size,
        size_multiple=max(8, vae_factor),
        token_limit=token_limit,
        prompt_limit=prompt_limit,
        default_steps=steps,
        default_guidance_scale=guidance_scale,
        default_strength=strength,
        default_max_size=max_size,
        prediction_type=_prediction_type(scheduler),
        scheduler_config=scheduler.values,
        emoji=_emoji(folder),
    )


def _native_size(unet: _Config, vae_factor: int) -> int:
    size = min(unet.sizes("sample_size")) * vae_factor
    # With a smaller model not even the largest size would be allowed in a request.
    if not SIZE_MIN // _NATIVE_TIMES <= size <= SIZE_MAX:
        raise unet.wrong("sample_size", f"one for pictures of {SIZE_MIN} to {SIZE_MAX} pixels")
    return size


class _Config:
    """One JSON file of a model, with sentences for wrong values."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.values = read_config(folder, name)
        bounds.check_harmless(self.path, self.values)

    def size(self, key: str, fallback: int | None = None) -> int:
        """Return a whole number from 1 up."""
        value: Any = self.values.get(key, fallback)
        if not _is_size(value):
            raise self.wrong(key, "a whole number from 1 up")
        return int(value)

    def sizes(self, key: str) -> list[int]:
        """Return whole numbers from 1 up; a single one counts as a list of one."""
        value: Any = self.values.get(key)
        found: list[int] = value if isinstance(value, list) else [value]
        if not found or not all(map(_is_size, found)):
            raise self.wrong(key, "whole numbers from 1 up")
        return found

    def wrong(self, key: str, expected: str) -> ModelError:
        """Return the error for a value that is not as expected."""
        return bounds.wrong(self.path, key, self.values.get(key), expected)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_classes(folder: Path) -> str:
    """Return the name of the pipeline that the model is made for."""
    index = _Config(folder, INDEX).values
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in STABLE_DIFFUSION.pipelines:
        raise ModelError(
            f"The model in {folder} is made for {_named(kind) or 'an unnamed pipeline'}, which "
            "this engine cannot run; choose a Stable Diffusion 1 or 2 model "
            "(StableDiffusionPipeline)."
        )
    for part, library in STABLE_DIFFUSION.libraries.items():
        entry = index.get(part)
        pair = entry if isinstance(entry, list) and len(entry) == 2 else [None, None]  # noqa: PLR2004
        source, found = (str(item) if item else None for item in pair)
        classes = STABLE_DIFFUSION.classes.get(part)
        if classes is not None and found not in classes:
            raise ModelError(
                f"The model in {folder} has {_named(found) or 'nothing'} as its {part} instead of "
                f"{min(classes)}; choose a plain Stable Diffusion 1 or 2 model."
            )
        if found is not None and source != library:
            raise ModelError(
                f"The model in {folder} takes its {part} from {_named(source) or 'nowhere'} "
                f"instead of {library}; choose a plain Stable Diffusion 1 or 2 model."
            )
    return kind


def _named(value: object) -> str:
    return str(value)[:80] if value else ""


def _check_networks(unet: _Config, vae: _Config, text_encoder: _Config) -> None:
    channels = vae.size("latent_channels", 4)
    # Latents are multiplied by it and divided.
    if not _is_within(vae.values.get("scaling_factor", 0.18215), *_SCALING):
        raise vae.wrong("scaling_factor", f"a number from {_SCALING[0]:g} to {_SCALING[1]:g}")
    if unet.size("in_channels", 4) != channels:
        raise ModelError(
            f"{unet.path} takes {unet.size('in_channels', 4)} channels where the latents have "
            f"{channels}, as a model for inpainting does; choose a text-to-image model."
        )
    if unet.size("out_channels", 4) != channels:
        raise unet.wrong("out_channels", f"the {channels} channels of the latents")
    for key in _MORE_CONDITIONS:
        if unet.values.get(key) is not None:
            raise unet.wrong(key, "null (this engine gives a UNet only a prompt)")
    width = text_encoder.size("hidden_size", 512)
    if set(unet.sizes("cross_attention_dim")) != {width}:
        raise unet.wrong("cross_attention_dim", f"the text encoder's {width}")


def _token_limits(folder: Path, text_encoder: _Config) -> tuple[int, int]:
    """Return how many tokens a text has, and how many of them a prompt may fill.

    A prompt may fill all tokens unless the tokenizer's config says `prompt_tokens`: the starter's
    text encoder writes its results over the tokens after those.
    """
    positions = text_encoder.size("max_position_embeddings", 77)
    if positions > _MOST_TOKENS:
        raise text_encoder.wrong("max_position_embeddings", f"at most {_MOST_TOKENS:,}")
    if not (folder / "tokenizer/tokenizer_config.json").is_file():
        return positions, positions
    tokenizer = _Config(folder, "tokenizer/tokenizer_config.json")
    # A tokenizer without a limit of its own says 10**30, as a float in some files.
    limit = tokenizer.values.get("model_max_length") or positions
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < _FEWEST_TOKENS:
        raise tokenizer.wrong("model_max_length", "a whole number from 1 up")
    limit = int(min(limit, positions))
    filled: Any = tokenizer.values.get("prompt_tokens")
    if filled is None:
        return limit, limit
    if not _is_size(filled) or not _FEWEST_TOKENS <= filled <= limit:
        raise tokenizer.wrong("prompt_tokens", f"a whole number from {_FEWEST_TOKENS} to {limit}")
    return limit, int(filled)


def _prediction_type(scheduler: _Config) -> str:
    found = str(scheduler.values.get("prediction_type", "epsilon"))
    if found not in _PREDICTIONS:
        raise scheduler.wrong("prediction_type", " or ".join(sorted(_PREDICTIONS)))
    if found == "epsilon" and scheduler.values.get("rescale_betas_zero_snr"):
        raise noise_alone(scheduler.path, "rescale_betas_zero_snr")
    return found


def noise_alone(path: Path, reason: str) -> ModelError:
    """Return the error for a schedule with zero terminal SNR and a UNet that predicts epsilon."""
    return ModelError(
        f"{path} starts from noise alone ({reason}), where a UNet that predicts epsilon says "
        'nothing; set prediction_type = "v_prediction" in the configuration if the model was '
        "trained so, or choose another one."
    )


def _defaults(folder: Path, native_size: int) -> tuple[int, float, float, int]:
    """Return the steps, guidance scale, strength of variations and largest edge for the model."""
    max_size = _NATIVE_TIMES * native_size
    if not (folder / DEFAULTS).is_file():
        return DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_STRENGTH, max_size
    config = _Config(folder, DEFAULTS)
    guidance_scale = config.values.get("guidance_scale", DEFAULT_GUIDANCE_SCALE)
    if not _is_within(guidance_scale, GUIDANCE_MIN, GUIDANCE_MAX):
        raise config.wrong("guidance_scale", f"a number from {GUIDANCE_MIN:g} to {GUIDANCE_MAX:g}")
    strength = config.values.get("strength", DEFAULT_STRENGTH)
    if not _is_within(strength, STRENGTH_MIN, STRENGTH_MAX):
        raise config.wrong("strength", f"a number from {STRENGTH_MIN:g} to {STRENGTH_MAX:g}")
    max_size = config.size("max_size", max_size)
    if "max_size" in config.values and not SIZE_MIN <= max_size <= SIZE_MAX:
        raise config.wrong("max_size", f"a whole number from {SIZE_MIN} to {SIZE_MAX}")
    steps = config.size("steps", DEFAULT_STEPS)
    if steps > STEPS_MAX:
        raise config.wrong("steps", f"a whole number from 1 to {STEPS_MAX}")
    return steps, float(guidance_scale), float(strength), max_size


def _is_within(value: Any, least: float, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return least <= value <= most


def _emoji(folder: Path) -> Mapping[str, str]:
    if not (folder / EMOJI).is_file():
        return {}
    config = _Config(folder, EMOJI)
    if len(config.values) > _EMOJI_MOST:
        raise ModelError(
            f"{config.path} names {len(config.values):,} emoji, and {_EMOJI_MOST:,} are the most "
            "that are read; remove some, or the file."
        )
    for emoji, name in config.values.items():
        if emoji.isascii() or len(emoji) > _EMOJI_LENGTH or not isinstance(name, str):
            raise config.wrong(emoji, "the name of an emoji")
        if len(name) > NAME_LENGTH:
            raise config.wrong(emoji, f"a name of at most {NAME_LENGTH} characters")
    return config.values
