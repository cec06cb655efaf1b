"""The header of a checkpoint in one file: its tensors, and what its UNet predicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError, any_of
from .headers import Header, read_header
from .json_reader import read_bytes
from .parts import Place, file_tensors

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."
# diffusers recognises the parts by these names too.
_FIRST_OF_UNET: Final = f"{UNET}input_blocks.0.0.weight"
_FIRSTS: Final = {_FIRST_OF_UNET: "UNet", f"{VAE}decoder.conv_in.weight": "VAE"}
# The text encoders as in CLIP, and the projection as in OpenCLIP.
_CLIP: Final = re.compile(
    r"(.*[.]transformer[.])(text_model[.])?((?:embeddings|encoder|final)[._].+)"
)
_PROJECTION: Final = re.compile(r"(.*[.]model[.]text_projection)[.]weight")
_TEXT_ENCODERS: Final = ("cond_stage_model.", "conditioner.", "text_encoders.")
# Beside a text encoder of CLIP there may be numbers that nobody reads, but no other encoder.
_FOREIGN: Final = ("cond_stage_model.model.", "conditioner.", "text_encoders.")
_CHANNELS: Final = 4
_DTYPES: Final = {"F16": "float16", "BF16": "bfloat16"}

# The names of the VAE's attention: diffusers' newer and older ones, and those of a checkpoint.
_ATTENTION: Final = re.compile(
    r"(.*[.]mid[.]attn_1[.])(to_q|query|to_k|key|to_v|value|to_out[.]0|proj_attn|group_norm)([.]\w+)"
)
_ATTENTION_NAMES: Final = {
    "to_q": "q",
    "query": "q",
    "to_k": "k",
    "key": "k",
    "to_v": "v",
    "value": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
    "group_norm": "norm",
}

# Tensors without a value mark a model: NoobAI and models trained from it have them, and ComfyUI and
# forge read them.
_V_MARKER: Final = "v_pred"
_ZERO_SNR_MARKER: Final = "ztsnr"
# https://github.com/Stability-AI/ModelSpec; kohya's sd-scripts write the first key.
_HEADER_KEYS: Final = ("modelspec.prediction_type", "modelspec.predict_key")
_PREDICTIONS: Final = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vprediction": "v_prediction",
    "vpred": "v_prediction",
    "v_pred": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "noise": "epsilon",
}
# Stability's own configs have this line. Nothing else in them is needed, so no YAML is parsed.
_YAML: Final = re.compile(
    r"""^[^#\n]*?(?:^|[\s{,])["']?parameterization["']?\s*:\s*["']?([\w-]+)""", re.MULTILINE
)
_YAML_BYTES: Final = 256 * 2**10
_ZERO_SNR: Final[Mapping[str, Any]] = {
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleFile:
    """What a complete checkpoint in one file looks like, with the names of a first release.

    `name` is for people. `encoders` holds, by the prefix of each text encoder's tensors, a tensor
    that each encoder has. `pipeline` is the class of diffusers that reads such a file, and
    `configs` the name of the folder in this package with the configs. Models that predict v have
    other configs, if `v_configs` is not None.
    """

    name: str
    encoders: Mapping[str, str]
    pipeline: str
    configs: str
    v_configs: str | None = None

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Return how the names of all tensors of such a checkpoint start."""
        return (UNET, VAE, *self.encoders)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, and what kind it is.

    `places` holds its tensors by the names of the first release, `scheduler` the settings that
    differ from that release, `dtype` the type of its UNet.
    """

    file: Path
    kind: SingleFile
    places: Mapping[str, Place]
    scheduler: Mapping[str, Any]
    dtype: str

    @property
    def configs(self) -> str:
        """Return the name of the folder in this package with the configs."""
        predicts_v = self.scheduler.get("prediction_type") == "v_prediction"
        return (self.kind.v_configs if predicts_v else None) or self.kind.configs

    @property
    def is_plain(self) -> bool:
        """Return whether the file has the names of the first release and no scales."""
        places = self.places.items()
        return all(name == place.name and place.scale is None for name, place in places)

    @property
    def differences(self) -> str:
        """Return a suffix for the marks that change how the weights are converted or used."""
        parts = [] if self.is_plain else ["scaled"]
        parts += [str(self.scheduler["prediction_type"])] if self.scheduler else []
        parts += ["ztsnr"] if "rescale_betas_zero_snr" in self.scheduler else []
        return "".join(f"-{part}" for part in parts)


def read_checkpoint(file: Path, kinds: Sequence[SingleFile]) -> Checkpoint:
    """Return a checkpoint of one of `kinds`, from its header and from the YAML file beside it.

    Raises:
        ModelError: the file is broken or no complete checkpoint of these kinds.
    """
    header = read_header(file, what="it")
    kind = _kind(file, header, kinds)
    places: dict[str, Place] = {}
    for name, place in file_tensors(file).items():
        if name.startswith(kind.prefixes):
            if (known := _first_name(name)) in places:
                raise ModelError(
                    f"{file} has the tensor {known[:120]!r} under two names; download it again."
                )
            places[known] = place
    _check_whole(file, kind, places)
    dtype = _DTYPES.get(places[_FIRST_OF_UNET].info.dtype, "float32")
    return Checkpoint(file, kind, places, _scheduler(file, header), dtype)


def _kind(file: Path, header: Header, kinds: Sequence[SingleFile]) -> SingleFile:
    """Return the kind whose text encoders are all in the file, and no others."""
    texts = [name for name in header.tensors if name.startswith(_TEXT_ENCODERS)]
    found = {
        prefix
        for kind in kinds
        for prefix in kind.encoders
        if any(name.startswith(prefix) for name in texts)
    }
    for kind in kinds:
        others = (name for name in texts if not name.startswith(kind.prefixes))
        if found == set(kind.encoders) and not any(name.startswith(_FOREIGN) for name in others):
            return kind
    names = any_of([kind.name for kind in kinds])
    if texts:
        raise ModelError(
            f"{file} is no checkpoint of {names}, the kinds that are read from a single file; "
            "name another model by its folder or hub id."
        )
    raise ModelError(
        f"{file} holds no text encoder of {names}, so it is no whole model (a LoRA or an "
        "embedding is none); choose a full checkpoint."
    )


def _first_name(name: str) -> str:
    """Return the name that a tensor had in the first release."""
    if match := _CLIP.fullmatch(name):
        return f"{match[1]}text_model.{match[3]}"
    if match := _PROJECTION.fullmatch(name):
        return match[1]
    if match := _ATTENTION.fullmatch(name):
        return match[1] + _ATTENTION_NAMES[match[2]] + match[3]
    return name


def _check_whole(file: Path, kind: SingleFile, places: Mapping[str, Place]) -> None:
    texts = dict.fromkeys(kind.encoders.values(), "text encoder")
    for name, part in {**_FIRSTS, **texts}.items():
        if name not in places:
            raise ModelError(
                f"{file} holds no {kind.name} {part}, so it is no whole model (a LoRA or an "
                "embedding is none); choose a full checkpoint."
            )
    shape = places[_FIRST_OF_UNET].info.shape
    channels = shape[1] if len(shape) > 1 else 0
    if channels != _CHANNELS:
        raise ModelError(
            f"{file} is made for inpainting ({channels} channels); choose a text-to-image model."
        )


def _scheduler(file: Path, header: Header) -> dict[str, Any]:
    """Return the settings of the scheduler from the marks of a checkpoint."""
    has_zero_snr = _ZERO_SNR_MARKER in header.tensors
    if _V_MARKER in header.tensors:
        prediction = "v_prediction"
    else:
        prediction = _said_beside(file) or _said_in_header(file, header) or "epsilon"
    if prediction == "epsilon" and not has_zero_snr:
        return {}
    return {"prediction_type": prediction, **(_ZERO_SNR if has_zero_snr else {})}


def _said_in_header(file: Path, header: Header) -> str | None:
    for key in _HEADER_KEYS:
        if said := header.metadata.get(key):
            return _prediction(file, key, said)
    return None


def _said_beside(file: Path) -> str | None:
    for suffix in (".yaml", ".yml"):
        beside = file.with_suffix(suffix)
        if beside.is_file():
            text = read_bytes(beside, most=_YAML_BYTES).decode("utf-8-sig", errors="replace")
            if match := _YAML.search(text):
                return _prediction(beside, "parameterization", match[1])
    return None


def _prediction(file: Path, key: str, said: str) -> str:
    found = _PREDICTIONS.get(said.strip().lower().replace("-", "_"))
    if found is None:
        raise ModelError(
            f"{file} says {key} = {said[:40]!r}, and only epsilon and v are known; choose another "
            "model, or correct it there."
        )
    return found
