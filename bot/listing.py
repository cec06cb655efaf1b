"""What the operator lists: models, and LoRAs for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from generation.catalog.files import SAFETENSORS, DownloadProgress
from generation.catalog.memory.denoiser import GGUF
from generation.catalog.memory.savings import Offload, Quantize, Savings
from generation.catalog.profile import ModelProfile
from generation.models.locate import locate
from generation.values.lora import LORA_NAME_LENGTH, LORA_WEIGHT_MAX
from generation.values.request import (
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    SIZE_MAX,
    SIZE_MIN,
    STEPS_MAX,
    STEPS_MIN,
    SchedulerName,
)

_MODEL_NAME: Final = 80
_STARTER: Final = "starter"
_STARTER_LICENCE: Final = "MIT"
_CHECKPOINTS: Final = SAFETENSORS | {GGUF}

PredictionType = Literal["epsilon", "v_prediction"]
Steps = Annotated[int, Field(ge=STEPS_MIN, le=STEPS_MAX)]
Guidance = Annotated[float, Field(ge=GUIDANCE_MIN, le=GUIDANCE_MAX)]
Size = Annotated[int, Field(ge=SIZE_MIN, le=SIZE_MAX)]
# A tile of fewer pixels shows seams, and a multiple of 64 fits the autoencoder of every family.
Tile = Annotated[int, Field(ge=256, le=SIZE_MAX, multiple_of=64)]


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("a name of visible characters, without spaces around it")
    return text


class ListedModel(BaseModel):
    """One of the operator's models; `config.example.toml` explains each key.

    `name` is what people choose. `source` is a name as `generation.models.locate` takes it; without
    a `source` it is `name`. With a `base` the source is a file with only the denoiser.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=_MODEL_NAME), AfterValidator(_printable)]
    source: Annotated[str, Field(min_length=1)] = ""
    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    size: Size | None = None
    scheduler: SchedulerName | None = None
    prediction_type: PredictionType | None = None
    licence: str = ""
    needs_filter: bool = False
    roles: frozenset[int] = frozenset()
    servers: frozenset[int] = frozenset()
    base: Annotated[str, Field(min_length=1)] | None = None
    vae: Annotated[str, Field(min_length=1)] | None = None
    quantize: Quantize | None = None
    offload: Offload = "none"
    vae_tile: Tile | None = None
    vae_slicing: bool = False

    @property
    def savings(self) -> Savings:
        """Return how the model takes less memory."""
        return Savings(
            quantize=self.quantize,
            offload=self.offload,
            decoder_tile=self.vae_tile,
            decoder_slicing=self.vae_slicing,
        )

    @property
    def location(self) -> str:
        """Return where the model is: `starter`, a folder, a file or a hub id."""
        return self.source or self.name

    @property
    def licence_name(self) -> str:
        """Return the licence for people to read, as far as it is known."""
        return self.licence or (_STARTER_LICENCE if self.location == _STARTER else "not stated")

    @property
    def is_for_everybody(self) -> bool:
        """Return whether neither roles nor servers restrict who may use the model."""
        return not self.roles and not self.servers


_LoraName = Annotated[
    str, Field(min_length=1, max_length=LORA_NAME_LENGTH), AfterValidator(_printable)
]


class ListedLora(BaseModel):
    """A LoRA with what the operator says of it; `config.example.toml` explains each key.

    Without a `source` it is the file `name` in `lora_folder`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _LoraName
    source: Path | None = None
    triggers: tuple[_LoraName, ...] = ()
    weight: Annotated[float, Field(ge=-LORA_WEIGHT_MAX, le=LORA_WEIGHT_MAX)] = 1.0


def locate_listed(
    listed: ListedModel,
    *,
    on_download: Callable[[DownloadProgress], None] | None = None,
    only_look: bool = False,
) -> ModelProfile:
    """Return the profile of a listed model; the arguments are as in `locate`.

    Raises:
        ModelNotHere: with `only_look`, the model has to be downloaded or converted first.
        ModelError: there is no such model, or it cannot be downloaded, used or trusted.
    """
    return locate(
        listed.location,
        on_download=on_download,
        prediction_type=listed.prediction_type,
        base=listed.base,
        savings=listed.savings,
        vae=listed.vae,
        only_look=only_look,
    )


def short_name(source: str) -> str:
    """Return a name for people for a model that the operator gave no name: no whole path."""
    path = Path(source)
    if path.suffix.lower() in _CHECKPOINTS:
        name = path.stem
    else:
        name = path.name if source.startswith((".", "~", "/")) else source
    return "".join(filter(str.isprintable, name)).strip()[:_MODEL_NAME].strip() or "model"
