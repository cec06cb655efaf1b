from __future__ import annotations

from typing import Any

import pytest

from generation.errors import InvalidRequest
from generation.schedulers.fitting import check, fitting
from generation.schedulers.names import label, matches, read
from generation.schedulers.registry import REGISTRY
from generation.values.request import SCHEDULERS

from ..examples import a_request

FLOW: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
DIFFUSION: dict[str, Any] = {"_class_name": "PNDMScheduler", "beta_start": 0.00085}
ZERO_SNR = {**DIFFUSION, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def test_each_scheduler_fits_a_model_of_noise() -> None:
    assert fitting(DIFFUSION) == SCHEDULERS


@pytest.mark.parametrize(
    "config",
    [FLOW, {"shift": 1.0}, {"prediction_type": "flow_prediction", "_class_name": "UniPC"}],
    ids=str,
)
def test_only_flow_matching_fits_a_model_of_flow(config: dict[str, Any]) -> None:
    assert fitting(config) == ("euler", "heun")


def test_what_cannot_start_from_noise_alone_is_not_offered_for_zero_snr() -> None:
    assert set(SCHEDULERS) - set(fitting(ZERO_SNR)) == {"lms", "heun", "dpmpp_sde"}
    # Recipes from before stay valid.
    check(a_request(scheduler="lms"), ZERO_SNR)


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        (
            FLOW,
            {"scheduler": "ddim"},
            "The scheduler ddim does not fit this model; choose one of euler, heun.",
        ),
        (
            FLOW,
            {"scheduler": "heun", "spacing": "trailing"},
            "The scheduler heun has no spacing trailing; choose karras, exponential or beta, or "
            "leave it out.",
        ),
        (
            DIFFUSION,
            {"scheduler": "ddpm", "spacing": "karras"},
            "The scheduler ddpm has no spacing karras; choose trailing, or leave it out.",
        ),
        (
            DIFFUSION,
            {"scheduler": "lcm", "spacing": "beta"},
            "The scheduler lcm has no spacing beta; leave it out.",
        ),
        (
            DIFFUSION,
            {"scheduler": "lcm", "steps": 60},
            "The scheduler lcm takes at most 50 steps; you asked for 60.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    config: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(a_request(**changes), config)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dpmpp_2m", ("dpmpp_2m", None)),
        ("DPM++ 2M", ("dpmpp_2m", None)),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE Exponential", ("dpmpp_2m_sde", "exponential")),
        ("DPM++ SDE Karras", ("dpmpp_sde", "karras")),
        ("dpmpp-2m-sde", ("dpmpp_2m_sde", None)),
        ("Euler a", ("euler_a", None)),
        ("euler_ancestral", ("euler_a", None)),
        ("EULER", ("euler", None)),
        ("Euler SGM Uniform", ("euler", "trailing")),
        ("uni_pc", ("unipc", None)),
        (" heun ", ("heun", None)),
        ("Restart", None),
        ("", None),
        ("karras", None),
    ],
)
def test_the_names_of_other_programs_are_read(text: str, named: tuple[str, str | None]) -> None:
    assert read(text) == named


def test_labels_are_read_as_what_they_label() -> None:
    for name, row in REGISTRY.items():
        for spacing in (None, *row.methods["diffusion"].spacings):
            assert read(label(name, spacing)) == (name, spacing)


def test_a_part_of_a_name_finds_the_scheduler() -> None:
    assert [name for name in SCHEDULERS if matches(name, "2m")] == ["dpmpp_2m", "dpmpp_2m_sde"]
    assert [name for name in SCHEDULERS if matches(name, "dpm++ s")] == ["dpmpp_sde"]
    assert all(matches(name, "") for name in SCHEDULERS)
