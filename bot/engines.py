"""Makes the engine that the settings describe, in this process or in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from generation.catalog.addons.loras import ListedLora, LoraLibrary
from generation.catalog.profile import ModelProfile
from generation.errors import GenerationError
from generation.workers.process import EngineProcess
from generation.workers.protocol import OnSign

from . import console
from .config import Settings

if TYPE_CHECKING:
    from generation.engine.calibration import Learned
    from generation.engine.engine import Engine
    from generation.engine.pool import EnginePool

# What an engine's process reads of the settings. The token is not among them.
_SENT: Final = (
    "device",
    "dtype",
    "compile",
    "deterministic",
    "log_level",
    "lora_folder",
    "embedding_folder",
    "loras",
    "model_memory_gb",
)


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of an engine, for the process that builds the engine.

    `profiles` holds the models by name, the default first.
    """

    settings: dict[str, Any]
    profiles: dict[str, ModelProfile]


def load_engine(
    settings: Settings,
    profile: ModelProfile,
    *,
    shared: bool,
    on_sign: OnSign = lambda _: None,
    learned: Learned | None = None,
) -> Engine:
    """Return an engine in this process, with the model loaded.

    With `shared` the engine makes pictures of several requests at once. `on_sign` is called after
    each network call, and before a model is loaded. `learned` is what an engine with the same model
    measured before.

    Raises:
        ModelError: the model cannot be loaded.
    """
    # Imported here, because these load torch: neither the bot nor an error in the options needs it.
    from generation.engine.engine import Engine  # noqa: PLC0415
    from generation.models.loading import load  # noqa: PLC0415

    return Engine(
        load(profile, device=settings.device, dtype=settings.dtype, compiled=settings.compile),
        deterministic=settings.deterministic,
        compiled=settings.compile,
        shared=shared,
        library=lora_library(settings),
        inversions=inversion_library(settings),
        on_sign=on_sign,
        # Measuring is what compiles a model.
        learned=None if settings.compile else learned,
        load_in_float32=partial(load, profile, device=settings.device, dtype="float32"),
    )


def lora_library(settings: Settings) -> LoraLibrary:
    """Return the LoRAs of the operator: the files in a folder, and what the settings list."""
    folder = settings.lora_folder
    return LoraLibrary(
        folder,
        tuple(
            ListedLora(
                name=lora.name,
                path=lora.source or (folder or Path()) / f"{lora.name}.safetensors",
                triggers=lora.triggers,
                weight=lora.weight,
            )
            for lora in settings.loras
        ),
    )


def inversion_library(settings: Settings) -> LoraLibrary:
    """Return the textual inversions of the operator."""
    return LoraLibrary(settings.embedding_folder, kind="embedding")


def start_engine(settings: Settings, profiles: Mapping[str, ModelProfile]) -> EngineProcess:
    """Start a process with an engine for some models, by name, the default first.

    The default model is loaded in the background, the others when a job needs them.
    """
    return EngineProcess(
        _build_engine,
        encode_spec(settings, profiles),
        timeout=settings.step_timeout,
        load_timeout=settings.load_timeout,
    )


def encode_spec(settings: Settings, profiles: Mapping[str, ModelProfile]) -> str:
    """Return the description of an engine as JSON: plain data, which may go to another machine."""
    spec = _Spec(settings.model_dump(mode="json", include=set(_SENT)), dict(profiles))
    # Python's JSON, since a folder's name may hold bytes that are no text.
    return json.dumps(msgspec.to_builtins(spec, enc_hook=_plain))


def decode_spec(text: str) -> tuple[Settings, dict[str, ModelProfile]]:
    """Return the settings of an engine and the models in `text`, which `encode_spec` wrote.

    Raises:
        ValueError: the text is no such description, or a value is wrong.
    """
    spec = msgspec.convert(json.loads(text), _Spec, dec_hook=_from_plain)
    return Settings(**spec.settings), spec.profiles


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _from_plain(type_: type, value: Any) -> object:
    if type_ is Path:
        return Path(value)
    raise NotImplementedError


def _build_engine(spec: str, on_sign: OnSign) -> EnginePool:
    settings, profiles = decode_spec(spec)
    console.set_up_logging(settings.log_level)
    return open_pool(settings, profiles, on_sign=on_sign)


def open_pool(
    settings: Settings, profiles: Mapping[str, ModelProfile], *, on_sign: OnSign = lambda _: None
) -> EnginePool:
    """Return an engine for several models in this process; nothing is loaded yet."""
    from generation.engine.pool import EnginePool, Loadable  # noqa: PLC0415

    models = {
        name: Loadable(
            partial(_reload, settings, profile, on_sign),
            _expected_bytes(settings, profile),
        )
        for name, profile in profiles.items()
    }
    gigabytes = settings.model_memory_gb
    budget = None if gigabytes is None else int(gigabytes * 1e9)
    return EnginePool(models, budget=budget, on_sign=on_sign)


def _reload(
    settings: Settings, profile: ModelProfile, on_sign: OnSign, learned: Learned | None
) -> Engine:
    return load_engine(settings, profile, shared=True, on_sign=on_sign, learned=learned)


def _expected_bytes(settings: Settings, profile: ModelProfile) -> int:
    from generation.models.loading import expected_bytes  # noqa: PLC0415

    try:
        return expected_bytes(profile, device=settings.device, dtype=settings.dtype)
    except (GenerationError, OSError):
        # What is wrong with the model is said when it is loaded; it must not keep others out.
        return 0
