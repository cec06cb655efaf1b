from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NoReturn

import pytest

from bot.bench import command, serving, users
from bot.bench.command import Extent, Figures, bench
from bot.bench.requests import requests
from bot.config import Settings
from generation.errors import GenerationError
from generation.locate import locate
from storage.records import Job


class NotOpened(Exception):
    """What a test raises in place of a queue."""


# As little as can be measured at all; the figures themselves mean nothing then.
LEAST = Extent(
    steps=(2, 4), alone_steps=2, repetitions=1, curve_steps=(1, 2), overhead_jobs=8, compiled=False
)


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """What `imagine-bot bench --quick --json` prints, of as little as can be measured."""
    with pytest.MonkeyPatch.context() as patch, command.console.out.capture() as output:
        patch.setattr(command, "_QUICK", LEAST)
        assert bench(None, model="starter", as_json=True, quick=True) == 0
    text = output.get()
    read: dict[str, Any] = json.loads(text)
    assert text.count("\n") == 1
    return read


def test_one_object_holds_every_figure(printed: dict[str, Any]) -> None:
    assert printed.keys() == set(Figures.__dataclass_fields__)
    unmeasured = {name for name, value in printed.items() if value is None}
    assert unmeasured == {"alone_ratio_compiled", "speedup_8_users_compiled"}
    for name in (
        "alone_ratio",
        "speedup_8_users",
        "mean_wait_ratio_8_users",
        "loop_lag_p99_ms",
        "overhead_ms_per_image",
        "preview_share_of_step",
        "eta_median_error",
    ):
        assert printed[name] > 0, name


def test_the_pictures_of_eight_users_are_those_made_alone_and_by_the_pipeline(
    printed: dict[str, Any],
) -> None:
    assert printed["pixels_equal"] is True
    assert printed["pixels_compared"] == 8
    assert printed["pixels_largest_difference"] <= 1
    assert printed["pixels_equal_share"] > 0.99


def test_the_curve_goes_to_32_users(printed: dict[str, Any]) -> None:
    assert [point["users"] for point in printed["curve"]] == [1, 2, 4, 8, 16, 32]


def test_the_table_shows_what_was_not_measured_and_the_curve() -> None:
    point = {"users": 1, "images_per_second": 1.0, "steps_per_second": 25.0}
    figures = Figures(
        device="cpu", dtype="float32", model="starter", curve=[{**point, "mean_wait_seconds": 1.0}]
    )
    with command.console.out.capture() as output:
        command._tell(figures)
    assert "not measured" in output.get()
    assert "█" in output.get()


async def test_eager_figures_are_eager_whatever_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Settings] = []

    def note(settings: Settings, profile: object) -> NoReturn:
        opened.append(settings)
        raise NotOpened

    monkeypatch.setattr(users, "open_queue", note)
    figures: Any = None
    with pytest.raises(NotOpened):
        await command._eager(
            figures, Settings(compile=True), locate("starter"), figures, [], figures, LEAST
        )
    assert [settings.compile for settings in opened] == [False]


def test_the_pipeline_is_loaded_without_a_word_of_what_it_would_like_to_have() -> None:
    code = (
        "from bot.bench.reference import Reference; from generation.locate import locate; "
        "Reference(locate('starter'), device='cpu', dtype=None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


async def test_the_loop_is_watched_while_jobs_are_stored_and_shown_and_a_failure_is_told() -> None:
    made: list[str] = []
    settings, profile = Settings(), locate("starter")
    asked = requests(2, side=64, steps=(2, 3))

    class Noting(serving._Mailbox):
        async def deliver(self, job: Job, *rest: Any) -> None:
            made.append(job.request.prompt)
            await super().deliver(job, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "_Mailbox", Noting)
        async with users.open_queue(settings, profile) as queue:
            lag = await serving.serve(queue, asked, progress_seconds=0.1)
            assert sorted(made) == sorted(request.prompt for request in asked)
            assert 0 <= lag.percentile(50) <= lag.percentile(99)
            patch.setattr(serving, "attachments_of", _broken)
            with pytest.raises(GenerationError, match="went wrong"):
                await serving.serve(queue, asked, progress_seconds=0.1)


def _broken(*_: object) -> NoReturn:
    raise KeyError("pictures")


def test_the_users_ask_for_different_things_and_always_the_same() -> None:
    asked = requests(8, side=64, steps=(20, 50))
    assert asked == requests(8, side=64, steps=(20, 50))
    assert len({request.prompt for request in asked}) == 8
    assert len({request.seed for request in asked}) == 8
    assert len({request.guidance_scale for request in asked}) > 1
    assert all(20 <= request.steps <= 50 for request in asked)
