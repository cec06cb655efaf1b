"""From the configs of a model to what `ModelProfile` holds; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import le
from pathlib import Path
from typing import Any, Final

from ..catalog.configs import Config, Configs, is_size
from ..catalog.files import INDEX
from ..catalog.profile import Description
from ..errors import ModelError
from ..schedulers.fitting import fitting
from ..values.request import REFERENCES_MAX, SIZE_MAX, SIZE_MIN, SchedulerName

_STEPS: Final = 30
_GUIDANCE_SCALE: Final = 7.5
_XL_GUIDANCE_SCALE: Final = 5.0
# What diffusers' pipeline for latent consistency models takes.
_LCM_GUIDANCE_SCALE: Final = 8.5
_SCALE_WIDTH_LEAST: Final = 4
_FEW_STEPS: Final = 4
_FEW_STEPS_KINDS: Final = frozenset({"LCMScheduler", "TCDScheduler"})
# The names of the classes of diffusers for which a model may have been made.
_OWN_SCHEDULERS: Final[Mapping[str, SchedulerName]] = {
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}
# Height and width of an original picture, where it was cropped, and height and width wanted.
_SIZES: Final = 6
# With a model smaller than half the smallest picture, not even the largest size would be allowed.
_NATIVE_LEAST: Final = SIZE_MIN // 2
# The start, the end, and one token of text.
_FEWEST_TOKENS: Final = 3
# Stable Diffusion 1 has 0.18215, and all others are near 1.
_SCALING: Final = (1e-4, 1e4)
# CLIP has 77; the longest model made from it has 248.
_MOST_TOKENS: Final = 1_024
KLEIN_TEXT_LAYERS: Final = (9, 18, 27)
"""The layers of the text encoder after which the states are what FLUX.2 klein reads."""
_KLEIN_PATCH: Final = 2
_KLEIN_SIZE: Final = 1_024
# What diffusers' pipelines read of a text, with the chat around it.
_QWEN_TOKENS: Final = 512
# Z-Image-Turbo says 3 and Z-Image 6.
_TURBO_SHIFT: Final = 3.0
_SHIFTS: Final = (1e-3, 1e3)
_NUMBER_MOST: Final = 1e6
# For each position there is a row of angles.
_POSITIONS_MOST: Final = 16_384
_PREDICTIONS: Final = frozenset({"epsilon", "v_prediction"})
# A UNet that sets one of these needs more than latents, a timestep, a prompt and a size.
_MORE_CONDITIONS: Final = (
    "class_embed_type",
    "encoder_hid_dim_type",
)


def stable_diffusion(configs: Configs) -> Description:
    """Return what the configs of Stable Diffusion 1 or 2 say.

    Raises:
        ModelError: a value is wrong, or asks for what the engine does not have.
    """
    unet = configs.network("unet")
    for key in ("addition_embed_type", *_MORE_CONDITIONS):
        if unet.values.get(key) is not None:
            raise unet.wrong(key, "null (this engine gives a UNet only a prompt)")
    return _unet(configs, ["text_encoder"], ["tokenizer"], _GUIDANCE_SCALE)


def stable_diffusion_xl(configs: Configs) -> Description:
    """Return what the configs of Stable Diffusion XL or a descendant say.

    Raises:
        ModelError: a value is wrong, or asks for what the engine does not have.
    """
    unet, encoder = configs.network("unet"), configs.network("text_encoder_2")
    for key in _MORE_CONDITIONS:
        if unet.values.get(key) is not None:
            raise unet.wrong(key, "null (this engine gives the UNet a prompt and a size)")
    if unet.values.get("addition_embed_type") != "text_time":
        raise unet.wrong("addition_embed_type", "text_time, as Stable Diffusion XL has it")
    width = _SIZES * unet.size("addition_time_embed_dim") + encoder.size("projection_dim", 512)
    if unet.size("projection_class_embeddings_input_dim") != width:
        raise unet.wrong("projection_class_embeddings_input_dim", f"{width} (text and sizes)")
    found = _unet(
        configs,
        ["text_encoder", "text_encoder_2"],
        ["tokenizer", "tokenizer_2"],
        _XL_GUIDANCE_SCALE,
    )
    return replace(found, default_scheduler=_own_scheduler(configs.scheduler.values))


def _unet(
    configs: Configs, encoders: Sequence[str], tokenizers: Sequence[str], guidance_scale: float
) -> Description:
    """Return what the configs of a UNet that reads CLIP's text encoders say.

    Raises:
        ModelError: a value is wrong, or the networks do not fit each other.
    """
    unet, vae = configs.network("unet"), configs.network("vae")
    pixels = 2 ** (len(vae.sizes("block_out_channels")) - 1)
    check_channels(unet, vae)
    texts = [configs.network(encoder) for encoder in encoders]
    width = sum(text.size("hidden_size", 512) for text in texts)
    if set(unet.sizes("cross_attention_dim")) != {width}:
        raise unet.wrong("cross_attention_dim", f"the text encoder's {width}")
    size = min(unet.sizes("sample_size")) * pixels
    if not _NATIVE_LEAST <= size <= SIZE_MAX:
        raise unet.wrong("sample_size", f"one for pictures of {SIZE_MIN} to {SIZE_MAX} pixels")
    limits = [clip_limits(configs, *pair) for pair in zip(texts, tokenizers, strict=True)]
    if set(limits) != {limits[0]}:
        raise ModelError(
            f"The model in {configs.folder} has text encoders for texts of different lengths; "
            "download it again or choose another one."
        )
    token_limit, prompt_limit = limits[0]
    # The UNet of a latent consistency model reads the guidance scale, and is not guided besides.
    reads_scale = unet.values.get("time_cond_proj_dim") is not None
    if reads_scale and unet.size("time_cond_proj_dim") < _SCALE_WIDTH_LEAST:
        raise unet.wrong("time_cond_proj_dim", f"at least {_SCALE_WIDTH_LEAST}")
    is_fast = reads_scale or makes_pictures_in_few_steps(configs.scheduler.values)
    if is_fast:
        guidance_scale = _LCM_GUIDANCE_SCALE if reads_scale else 1.0
    return Description(
        native_size=size,
        size_multiple=max(8, pixels),
        token_limit=token_limit,
        prompt_limit=prompt_limit,
        prediction_type=_prediction_type(configs.scheduler),
        schedulers=fitting(configs.scheduler.values),
        default_scheduler=_own_scheduler(configs.scheduler.values) if is_fast else "ddim",
        default_steps=_FEW_STEPS if is_fast else _STEPS,
        default_guidance_scale=guidance_scale,
        is_guided=not reads_scale,
    )


def makes_pictures_in_few_steps(scheduler: Mapping[str, Any]) -> bool:
    """Return whether the config of a scheduler is that of a model distilled to a few steps.

    Such models come with a scheduler of their own (LCM, TCD), or with Euler's method and trailing
    timesteps (Turbo, Lightning).
    """
    kind = str(scheduler.get("_class_name"))
    is_trailing = scheduler.get("timestep_spacing") == "trailing"
    predicts_noise = scheduler.get("prediction_type", "epsilon") == "epsilon"
    return kind in _FEW_STEPS_KINDS or (kind.startswith("Euler") and is_trailing and predicts_noise)


def _own_scheduler(scheduler: Mapping[str, Any]) -> SchedulerName:
    """Return the scheduler that a config was written for, or DDIM where that does not fit."""
    own = _OWN_SCHEDULERS.get(str(scheduler.get("_class_name")), "ddim")
    return own if own in fitting(scheduler) else "ddim"


def flux2_klein(configs: Configs) -> Description:
    """Return what the configs of FLUX.2 klein say, of the distilled model or of the base model.

    Raises:
        ModelError: a value is wrong, or the networks do not fit each other.
    """
    transformer, vae = configs.network("transformer"), configs.network("vae")
    text_encoder = configs.network("text_encoder")
    _check_qwen3(text_encoder)
    pixels = _KLEIN_PATCH * 2 ** (len(vae.sizes("block_out_channels")) - 1)
    channels = _KLEIN_PATCH**2 * vae.size("latent_channels", 32)
    if vae.values.get("patch_size", [_KLEIN_PATCH] * 2) != [_KLEIN_PATCH] * 2:
        raise vae.wrong("patch_size", f"[{_KLEIN_PATCH}, {_KLEIN_PATCH}]")
    for key in ("in_channels", "out_channels"):
        if transformer.values.get(key) is not None and transformer.size(key) != channels:
            raise transformer.wrong(key, f"the {channels} channels of a patch of latents")
    if transformer.size("patch_size", 1) != 1:
        raise transformer.wrong("patch_size", "1")
    if transformer.values.get("guidance_embeds", True):
        raise transformer.wrong("guidance_embeds", "false, as FLUX.2 klein has it")
    width = len(KLEIN_TEXT_LAYERS) * text_encoder.size("hidden_size", 4096)
    if transformer.size("joint_attention_dim", 15360) != width:
        raise transformer.wrong("joint_attention_dim", f"{width}, as the text encoder has it")
    if text_encoder.size("num_hidden_layers", 32) < max(KLEIN_TEXT_LAYERS):
        raise text_encoder.wrong("num_hidden_layers", f"at least {max(KLEIN_TEXT_LAYERS)}")
    size = min(vae.sizes("sample_size")) if "sample_size" in vae.values else _KLEIN_SIZE
    if not _NATIVE_LEAST <= size <= SIZE_MAX:
        raise vae.wrong("sample_size", f"one for pictures of {SIZE_MIN} to {SIZE_MAX} pixels")
    is_distilled = bool(configs.other(INDEX).values.get("is_distilled", False))
    return Description(
        native_size=size,
        size_multiple=pixels,
        token_limit=_QWEN_TOKENS,
        prompt_limit=_QWEN_TOKENS,
        prediction_type="flow",
        schedulers=fitting(configs.scheduler.values),
        default_scheduler="euler",
        default_steps=4 if is_distilled else 50,
        default_guidance_scale=1.0 if is_distilled else 4.0,
        is_guided=not is_distilled,
        most_references=REFERENCES_MAX,
    )


def z_image(configs: Configs) -> Description:
    """Return what the configs of Z-Image or Z-Image-Turbo say.

    The two have the same networks. The shift of the schedule tells which one it is; the numbers of
    steps and the guidance scales are those of the model cards.

    Raises:
        ModelError: a value is wrong, or asks for what the engine does not have.
    """
    transformer, vae = configs.network("transformer"), configs.network("vae")
    check_channels(transformer, vae, fallback=16)
    vae.number("shift_factor", 0.0, -_NUMBER_MOST, _NUMBER_MOST)
    # Patches of 2 x 2 latents.
    edge = 2 * 2 ** (len(vae.sizes("block_out_channels")) - 1)
    _check_z_image(transformer, configs.network("text_encoder"), edge)
    size = vae.size("sample_size", 1024)
    if not _NATIVE_LEAST <= size <= SIZE_MAX or size % edge:
        raise vae.wrong("sample_size", f"a multiple of {edge} from {SIZE_MIN} to {SIZE_MAX} pixels")
    is_turbo = configs.scheduler.number("shift", 1.0, *_SHIFTS) == _TURBO_SHIFT
    return Description(
        native_size=size,
        size_multiple=edge,
        token_limit=_QWEN_TOKENS,
        prompt_limit=_QWEN_TOKENS,
        prediction_type="flow",
        schedulers=fitting(configs.scheduler.values),
        default_scheduler="euler",
        default_steps=8 if is_turbo else _STEPS,
        default_guidance_scale=1.0 if is_turbo else 5.0,
    )


def _check_qwen3(text_encoder: Config) -> None:
    text_encoder.size("num_hidden_layers", 32)
    text_encoder.number("rms_norm_eps", 1e-6, 0.0, 1.0)


def _check_z_image(transformer: Config, text_encoder: Config, edge: int) -> None:
    _check_qwen3(text_encoder)
    transformer.number("norm_eps", 1e-5, 0.0, 1.0)
    for key, usual in (("rope_theta", 256.0), ("t_scale", 1000.0)):
        transformer.number(key, usual, 1.0, _NUMBER_MOST)
    for key, only in (("all_patch_size", [2]), ("all_f_patch_size", [1])):
        if transformer.values.get(key, only) != only:
            raise transformer.wrong(key, f"{only} (the patches of Z-Image)")
    if transformer.values.get("siglip_feat_dim") is not None:
        raise transformer.wrong("siglip_feat_dim", "null (this engine gives Z-Image only a prompt)")
    width = text_encoder.size("hidden_size", 4096)
    if transformer.size("cap_feat_dim", 2560) != width:
        raise transformer.wrong("cap_feat_dim", f"the text encoder's {width}")
    # The tokens of a text are counted from 1, and the picture has the number after them.
    least = (_QWEN_TOKENS + 2, SIZE_MAX // edge, SIZE_MAX // edge)
    lengths = transformer.sizes("axes_lens")
    fits = len(lengths) == len(least) and all(map(le, least, lengths))
    if not fits or max(lengths) > _POSITIONS_MOST:
        raise transformer.wrong(
            "axes_lens", f"from {', '.join(map(str, least))} to {_POSITIONS_MOST:,} positions"
        )


def check_channels(network: Config, vae: Config, fallback: int = 4) -> None:
    """Compare the channels of a network with those of the latents, and check their scale.

    Where the network's config is silent the network takes and returns `fallback` channels.

    Raises:
        ModelError: the network is made for something else than text to image.
    """
    channels = vae.size("latent_channels", 4)
    # Latents are multiplied by it and divided.
    vae.number("scaling_factor", 0.18215, *_SCALING)
    if (taken := network.size("in_channels", fallback)) != channels:
        raise ModelError(
            f"{network.path} takes {taken} channels where the latents have {channels}, as a model "
            "for inpainting does; choose a text-to-image model."
        )
    if network.size("out_channels", fallback) != channels:
        raise network.wrong("out_channels", f"the {channels} channels of the latents")


def clip_limits(configs: Configs, text_encoder: Config, tokenizer: str) -> tuple[int, int]:
    """Return how many tokens a text has, and how many of them a prompt may fill.

    A prompt may fill all tokens unless the tokenizer's config says `prompt_tokens`: the starter's
    text encoder writes its results over the tokens after those.

    Raises:
        ModelError: a number is wrong.
    """
    positions = text_encoder.size("max_position_embeddings", 77)
    if positions > _MOST_TOKENS:
        raise text_encoder.wrong("max_position_embeddings", f"at most {_MOST_TOKENS:,}")
    if not configs.has(f"{tokenizer}/tokenizer_config.json"):
        return positions, positions
    config = configs.other(f"{tokenizer}/tokenizer_config.json")
    # A tokenizer without a limit of its own says 10**30, as a float in some files.
    limit: Any = config.values.get("model_max_length") or positions
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < _FEWEST_TOKENS:
        raise config.wrong("model_max_length", "a whole number from 1 up")
    limit = int(min(limit, positions))
    filled: Any = config.values.get("prompt_tokens")
    if filled is None:
        return limit, limit
    if not is_size(filled) or not _FEWEST_TOKENS <= filled <= limit:
        raise config.wrong("prompt_tokens", f"a whole number from {_FEWEST_TOKENS} to {limit}")
    return limit, int(filled)


def _prediction_type(scheduler: Config) -> str:
    if str(scheduler.values.get("_class_name")).startswith("EDM"):
        raise scheduler.wrong("_class_name", "a scheduler for alphas and betas")
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
