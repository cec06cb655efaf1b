"""From the names of the tensors in a LoRA file to layers of a model and roles in a change.

Trainers name tensors in many ways: kohya and A1111 (`lora_unet_..._to_q.lora_down.weight`), peft
and diffusers (`unet....to_q.lora_A.weight`, `....to_q.lora.down.weight`), LyCORIS (`....hada_w1_a`)
and ComfyUI (`diffusion_model....`). Where a name is that of a layer, with a prefix and perhaps with
underscores for dots, the layer is looked up here. For all other names there are the converters of
diffusers, see `generation.models.adapters.conversion`. Importing this module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

DOWN: Final = "lora_A"
UP: Final = "lora_B"
MAGNITUDE: Final = "lora_magnitude_vector"
ALPHA: Final = "alpha"

# The ends of a tensor's name, and the names that peft gives to the same tensors.
_ENDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(rf"(?P<layer>.+){end}", re.DOTALL), role)
    for end, role in (
        (r"[.]lora_down[.]weight", DOWN),
        (r"[.]lora_up[.]weight", UP),
        (r"[.]lora_A(?:[.]default)?[.]weight", DOWN),
        (r"[.]lora_B(?:[.]default)?[.]weight", UP),
        (r"[.]lora(?:_linear_layer)?[.]down[.]weight", DOWN),
        (r"[.]lora(?:_linear_layer)?[.]up[.]weight", UP),
        (r"[.]lora_magnitude_vector(?:[.]default)?(?:[.]weight)?", MAGNITUDE),
        (r"[.]dora_scale", MAGNITUDE),
        (r"[.]alpha", ALPHA),
    )
)
_LYCORIS: Final = re.compile(
    r"(?P<layer>.+)[.](?P<role>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)", re.DOTALL
)
# What diffusers wrote for layers of attention until version 0.26.
_OLD: Final = re.compile(r".+[.]to_(?:q|k|v|out)_lora[.](?:down|up)[.]weight", re.DOTALL)
_DENOISER: Final = ("lora_unet_", "lora_transformer_", "lycoris_")
_DENOISER_DOTTED: Final = ("diffusion_model.", "base_model.model.", "")
# By part: prefixes of names with underscores for dots, and prefixes of names with dots.
_UNDERSCORED: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": _DENOISER,
    "transformer": _DENOISER,
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_DOTTED: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": ("unet.", *_DENOISER_DOTTED),
    "transformer": ("transformer.", *_DENOISER_DOTTED),
    "text_encoder": ("text_encoder.", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("text_encoder_2.", "text_encoders.clip_g.transformer."),
}
# The module that held all layers of CLIP's text encoder until transformers 5.
_OLD_MODULES: Final = ("text_model.", "")

Layers = Mapping[str, Collection[str]]
"""The layers with a weight in each part of a model that a LoRA may change."""


class Target(NamedTuple):
    """The layer that a tensor changes, and the role of the tensor in the change."""

    part: str
    layer: str
    role: str


class Name(NamedTuple):
    """The name of a tensor in a file: the layer as it is written there, and the tensor's role."""

    layer: str
    role: str


def split_name(name: str) -> Name | None:
    """Return the two parts of a tensor's name; None if the tensor is no part of a LoRA."""
    for end, role in _ENDS:
        if match := end.fullmatch(name):
            return Name(match["layer"], role)
    match = _LYCORIS.fullmatch(name)
    return None if match is None else Name(match["layer"], match["role"])


def is_adapter(names: Iterable[str]) -> bool:
    """Return whether tensors with these names may be a LoRA or its like."""
    return any(
        _OLD.fullmatch(name) or ((found := split_name(name)) and found.role != ALPHA)
        for name in names
    )


def first_unusable(names: Iterable[str]) -> str | None:
    """Return the first name that is not of a kind of change that can be merged; None if all are."""
    return next((n for n in names if split_name(n) is None and not _OLD.fullmatch(n)), None)


class LayerIndex:
    """Finds the layers of a model by the names that files give them."""

    def __init__(self, layers: Layers) -> None:
        self._found: dict[str, tuple[str, str]] = {}
        for part, names in layers.items():
            for layer in names:
                for written in _spellings(part, layer):
                    self._found.setdefault(written, (part, layer))

    def target(self, name: str) -> Target | None:
        """Return what a tensor changes; None if its name is not that of a layer."""
        split = split_name(name)
        found = None if split is None else self._found.get(split.layer)
        return None if found is None or split is None else Target(*found, split.role)


def _spellings(part: str, layer: str) -> Iterable[str]:
    """Yield the ways in which files write the name of a layer."""
    modules = _OLD_MODULES if part.startswith("text_encoder") else ("",)
    for module in modules:
        for prefix in _DOTTED.get(part, ()):
            yield f"{prefix}{module}{layer}"
        for prefix in _UNDERSCORED.get(part, ()):
            yield prefix + f"{module}{layer}".replace(".", "_")
