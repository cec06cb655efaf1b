"""Which schedulers fit a model, and which spacings and steps fit a scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidRequest, any_of
from ..values.request import GenerationRequest, SchedulerName, Spacing
from .registry import REGISTRY, Kind


def kind_of(config: Mapping[str, Any]) -> Kind:
    """Return what a model was trained for, from the config of its scheduler."""
    flow = (
        str(config.get("_class_name", "")).startswith("FlowMatch")
        or config.get("prediction_type") == "flow_prediction"
        # The settings of a flow matching scheduler say so themselves: no other has a shift.
        or ("shift" in config and "beta_start" not in config)
    )
    return "flow" if flow else "diffusion"


def fitting(config: Mapping[str, Any]) -> tuple[SchedulerName, ...]:
    """Return the names of the schedulers that fit a model, from the config of its scheduler.

    A model with zero terminal SNR is offered only what starts from noise alone.
    """
    kind, from_noise_alone = kind_of(config), _is_zero_snr(config)
    return tuple(
        name
        for name, row in REGISTRY.items()
        if kind in row.methods and (row.methods[kind].zero_snr or not from_noise_alone)
    )


def spacings_of(name: SchedulerName, config: Mapping[str, Any]) -> tuple[Spacing, ...]:
    """Return the spacings that a scheduler knows for a model; none if it does not fit."""
    method = REGISTRY[name].methods.get(kind_of(config))
    return () if method is None else method.spacings


def _is_zero_snr(config: Mapping[str, Any]) -> bool:
    if config.get("rescale_betas_zero_snr"):
        return True
    betas = config.get("trained_betas")
    # The config is not checked yet.
    return isinstance(betas, list) and betas[-1:] == [1]


def check(request: GenerationRequest, config: Mapping[str, Any]) -> None:
    """Check that a request's scheduler, spacing and steps fit a model and one another.

    Raises:
        InvalidRequest: they do not; its sentence says what does.
    """
    kind, row = kind_of(config), REGISTRY[request.scheduler]
    if kind not in row.methods:
        raise InvalidRequest(
            "scheduler",
            f"The scheduler {request.scheduler} does not fit this model; choose one of "
            f"{', '.join(fitting(config))}.",
        )
    if request.spacing is not None and request.spacing not in row.methods[kind].spacings:
        raise InvalidRequest("spacing", _no_spacing(request, row.methods[kind].spacings))
    if request.steps > row.most_steps:
        raise InvalidRequest(
            "steps",
            f"The scheduler {request.scheduler} takes at most {row.most_steps} steps; you asked "
            f"for {request.steps}.",
        )


def _no_spacing(request: GenerationRequest, spacings: Sequence[Spacing]) -> str:
    known = f"choose {any_of(spacings)}, or leave it out" if spacings else "leave it out"
    return f"The scheduler {request.scheduler} has no spacing {request.spacing}; {known}."
