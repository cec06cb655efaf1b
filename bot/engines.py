"""Makes the engine that the settings describe, in this process or in a process of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from generation.catalog.profile import ModelProfile
from generation.workers.process import EngineProcess
from generation.workers.protocol import OnSign

from . import console
from .config import Settings

if TYPE_CHECKING:
    from generation.engine.engine import Engine


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
    # The child needs no secret.
    public = settings.model_copy(update={"token": None})
    return EngineProcess(
        partial(_load_in_child, public, profile),
        timeout=settings.step_timeout,
        load_timeout=settings.load_timeout,
    )


def _load_in_child(settings: Settings, profile: ModelProfile, on_sign: OnSign) -> Engine:
    console.set_up_logging(settings.log_level)
    return load_engine(settings, profile, shared=True, on_sign=on_sign)
