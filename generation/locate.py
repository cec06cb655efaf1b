"""From a model's name to the folder that holds it, checked before anything is loaded.

A name is `starter` (the model that comes with the package), a folder, a single .safetensors
file, or a repository of the Hugging Face hub, which is downloaded once and found again
without the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .catalog import bounds
from .errors import ModelError
from .model_files import (
    DEFAULTS,
    EMOJI,
    INDEX,
    PICKLES,
    SCHEDULER_CONFIG,
    DownloadProgress,
    list_folder,
    pickle_sentence,
    read_config,
    select_files,
    weights_sha256,
)
from .request import (
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    SIZE_MAX,
    SIZE_MIN,
    STEPS_MAX,
    STRENGTH_MAX,
    STRENGTH_MIN,
)
from .spelling import NAME_LENGTH

__all__ = [
    "STARTER",
    "DownloadProgress",
    "ModelProfile",
    "locate",
    "profile",
    "starter_folder",
    "weights_sha256",
]

STARTER: Final = "starter"
DEFAULT_STEPS: Final = 30
DEFAULT_GUIDANCE_SCALE: Final = 7.5
DEFAULT_STRENGTH: Final = 0.6
# A model makes nothing good far above its own size, and takes very long over it.
_NATIVE_TIMES: Final = 2

# The start, the end, and one that says something.
_FEWEST_TOKENS: Final = 3
# Stable Diffusion 1 has 0.18215, and all others are near 1.
_SCALING: Final = (1e-4, 1e4)
# CLIP has 77, and the longest one made of it 248.
_MOST_TOKENS: Final = 1_024
# Of the emoji there are about 4,000, the longest of them 10 characters.
_EMOJI_MOST: Final = 10_000
_EMOJI_LENGTH: Final = 32
_SINGLE_FILES: Final = frozenset({".safetensors", ".sft"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"})
_CLASSES: Final = {
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "text_encoder": {"CLIPTextModel"},
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
}
_LIBRARIES: Final = {
    "tokenizer": "transformers",
    "text_encoder": "transformers",
    "unet": "diffusers",
    "vae": "diffusers",
    "scheduler": "diffusers",
}
_PREDICTIONS = frozenset({"epsilon", "v_prediction"})
# A UNet that sets one of these wants more than latents, a timestep and a prompt.
_MORE_CONDITIONS: Final = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """What a model's configs say of it, read without loading its weights.

    `native_size` (the edge of its pictures) and `size_multiple` are in pixels,
    `token_limit` counts the start and the end token, and so does `prompt_limit`, which is how
    many of them a prompt may fill; those after it are padding. Above `default_max_size` pixels in
    width or height it makes nothing good. `emoji` are the names of those that it knows by name.
    """

    name: str
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


def starter_folder() -> Path:
    """Return the folder of the model that comes with the package."""
    return Path(__file__).with_name("starter")


def locate(
    name: str,
    *,
    on_download: Callable[[DownloadProgress], None] | None = None,
    token: str | None = None,
    prediction_type: str | None = None,
    only_look: bool = False,
) -> ModelProfile:
    """Return the model called `name`: `starter`, a folder, a file or a hub id as in `owner/name`.

    A file is a checkpoint of Stable Diffusion 1 in one .safetensors (or .sft, as some call it);
    the first time it is converted to a folder in the cache. A hub model that is not in the
    cache is downloaded; `on_download` hears of it from other threads, one call at a time.
    `token` is the hub's; without one the hub's own settings count (`HF_TOKEN`, or a login),
    as do `HF_ENDPOINT` and `HF_HOME`. `prediction_type` (`epsilon` or `v_prediction`) overrules
    what the model says of its UNet. With `only_look` nothing is downloaded or converted, and no
    file is written.

    Raises:
        ModelNotHere: with `only_look`, the model has to be downloaded or converted first.
        ModelError: there is no such model, or it cannot be downloaded, used or trusted.
    """
    if name == STARTER:
        return profile(starter_folder(), STARTER, prediction_type=prediction_type)
    path = _path(name)
    if path.suffix.lower() in PICKLES:
        raise ModelError(pickle_sentence(f"The model {name}"))
    if name and _is(Path.is_dir, path):
        return profile(path, path.resolve().name, prediction_type=prediction_type)
    if path.suffix.lower() in _SINGLE_FILES:
        # The hub's client takes a good part of a second to load: only who needs it waits.
        from .single_file import open_single_file  # noqa: PLC0415

        folder = open_single_file(path, only_look=only_look)
        return profile(folder, path.stem, prediction_type=prediction_type)
    _refuse_other_files(name, path)
    if _HUB_ID.fullmatch(name):
        from .hub import download, find  # noqa: PLC0415

        if only_look:
            folder = find(name, token)
        else:
            folder = download(
                name,
                check=lambda configs: _read_configs(configs, name, prediction_type),
                on_download=on_download,
                token=token,
            )
        return profile(folder, name, prediction_type=prediction_type)
    raise ModelError(
        f"There is no model {name!r}; use {STARTER!r}, a folder, a .safetensors file or a hub id "
        "as in owner/name."
    )


def _refuse_other_files(name: str, path: Path) -> None:
    if path.suffix.lower() == ".gguf":
        raise ModelError(
            f"The model {name} is a GGUF file, which is not supported yet; choose a .safetensors "
            "file of the same model."
        )
    if name and _is(Path.is_file, path):
        raise ModelError(
            f"The model {name} is a file of a kind that is not supported; choose a folder in the "
            "layout of diffusers, or a checkpoint in one .safetensors file."
        )


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        # For example "~somebody", if this machine has no such account.
        raise ModelError(
            f"There is no home folder for the model {name!r}; name the whole path of its folder."
        ) from error


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    """Return the answer to a question about a path; it is False for a name that can be no path.

    Raises:
        ModelError: the bot's user may not look at the path.
    """
    try:
        return question(path)
    except PermissionError as error:
        raise ModelError(
            f"The model {path} cannot be looked at ({error.strerror}); let the bot's user read it, "
            "or choose another one."
        ) from error
    except OSError:
        return False


def profile(folder: Path, name: str, *, prediction_type: str | None = None) -> ModelProfile:
    """Return what the configs in `folder` say, after checking that the model can be used.

    `prediction_type` is as in `locate`.

    Raises:
        ModelError: the folder holds no complete Stable Diffusion model with safetensors.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}; check the spelling of the model.")
    select_files(list_folder(folder), f"The model in {folder}")
    return _read_configs(folder, name, prediction_type)


def _read_configs(folder: Path, name: str, prediction_type: str | None) -> ModelProfile:
    _check_classes(folder)
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
    # Below that not even the largest size would be one that a request may have.
    if not SIZE_MIN // _NATIVE_TIMES <= size <= SIZE_MAX:
        raise unet.wrong("sample_size", f"one for pictures of {SIZE_MIN} to {SIZE_MAX} pixels")
    return size


class _Config:
    """One JSON file of a model, with sentences for values that are not what they must be."""

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
        """Return the error for a value that is not what was expected."""
        return bounds.wrong(self.path, key, self.values.get(key), expected)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_classes(folder: Path) -> None:
    index = _Config(folder, INDEX).values
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in _PIPELINES:
        raise ModelError(
            f"The model in {folder} is made for {_named(kind) or 'an unnamed pipeline'}, which "
            "this engine cannot run; choose a Stable Diffusion 1 or 2 model "
            "(StableDiffusionPipeline)."
        )
    for part, library in _LIBRARIES.items():
        entry = index.get(part)
        pair = entry if isinstance(entry, list) and len(entry) == 2 else [None, None]  # noqa: PLR2004
        source, found = (str(item) if item else None for item in pair)
        if part in _CLASSES and found not in _CLASSES[part]:
            raise ModelError(
                f"The model in {folder} has {_named(found) or 'nothing'} as its {part} instead of "
                f"{min(_CLASSES[part])}; choose a plain Stable Diffusion 1 or 2 model."
            )
        if found is not None and source != library:
            raise ModelError(
                f"The model in {folder} takes its {part} from {_named(source) or 'nowhere'} "
                f"instead of {library}; choose a plain Stable Diffusion 1 or 2 model."
            )


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

    Those are all, but where the tokenizer says `prompt_tokens`: the starter's text encoder was
    taught to write what it makes of a prompt over the tokens after those.
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
