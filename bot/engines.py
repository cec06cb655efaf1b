"""Makes the engine that the settings describe, in this process or in a process of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from generation.catalog.profile import ModelProfile
from generation.workers.process import EngineProcess
from generation.workers.protocol import OnSign

from . import console
from .config import Settings

if TYPE_CHECKING:
    from generation.engine.engine import Engine

# What an engine's process reads of the settings. The token is not among them.
_SENT: Final = ("device", "dtype", "compile", "deterministic", "log_level")


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of an engine, for the process that builds the engine."""

    settings: dict[str, Any]
    profile: ModelProfile


def load_engine(
    settings: Settings,
    profile: ModelProfile,
    *,
    shared: bool,
    on_sign: OnSign = lambda _: None,
) -> Engine:
    """Return an engine in this process, with the model loaded.

    With `shared` the engine makes pictures of several requests at once. `on_sign` is called after
    each network call, and before a model is loaded.

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
        on_sign=on_sign,
        load_in_float32=partial(load, profile, device=settings.device, dtype="float32"),
    )


def start_engine(settings: Settings, profile: ModelProfile) -> EngineProcess:
    """Start a process with an engine, which loads the model in the background."""
    return EngineProcess(
        _build_engine,
        encode_spec(settings, profile),
        timeout=settings.step_timeout,
        load_timeout=settings.load_timeout,
    )


def encode_spec(settings: Settings, profile: ModelProfile) -> str:
    """Return the description of an engine as JSON: plain data, which may go to another machine."""
    spec = _Spec(settings.model_dump(mode="json", include=set(_SENT)), profile)
    # Python's JSON, since a folder's name may hold bytes that are no text.
    return json.dumps(msgspec.to_builtins(spec, enc_hook=_plain))


def decode_spec(text: str) -> tuple[Settings, ModelProfile]:
    """Return the settings of an engine and the model in `text`, which `encode_spec` wrote.

    Raises:
        ValueError: the text is no such description, or a value is wrong.
    """
    spec = msgspec.convert(json.loads(text), _Spec, dec_hook=_from_plain)
    return Settings(**spec.settings), spec.profile


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _from_plain(type_: type, value: Any) -> object:
    if type_ is Path:
        return Path(value)
    raise NotImplementedError


def _build_engine(spec: str, on_sign: OnSign) -> Engine:
    settings, profile = decode_spec(spec)
    console.set_up_logging(settings.log_level)
    return load_engine(settings, profile, shared=True, on_sign=on_sign)
