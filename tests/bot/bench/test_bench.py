from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any, NoReturn

import pytest
from pydantic import SecretStr

from bot.bench import command, rounds, serving, users
from bot.bench.command import Extent, Figures, bench
from bot.bench.contender import ENGINE, PIPELINE, Assignment, Report
from bot.bench.requests import requests
from bot.bench.rounds import BenchFailed, Rounds, Spread, Turn, Unfair, take_turn
from bot.config import Settings
from generation.errors import GenerationError
from generation.models.locate import locate
from storage.records import Job


class NotOpened(Exception):
    """What a test raises in place of a queue."""


# As little as can be measured at all; the figures themselves mean nothing then.
LEAST = Extent(
    steps=(2, 4),
    alone_steps=2,
    repetitions=1,
    rounds=1,
    compiled_rounds=0,
    curve_steps=(1, 2),
    overhead_jobs=8,
)


def assignment(contender: str = PIPELINE) -> Assignment:
    return Assignment(
        contender=contender,
        settings=Settings().model_dump(mode="json"),
        steps=(2, 4),
        alone_steps=4,
        repetitions=1,
    )


def report(contender: str, *, alone: list[float], ends: list[float]) -> Report:
    return Report(
        contender=contender,
        device="cpu",
        dtype="float32",
        alone=alone,
        ends=ends,
        own_share=0.5,
        threads=2,
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


@pytest.mark.rare
def test_one_object_holds_every_figure(printed: dict[str, Any]) -> None:
    assert printed.keys() == set(Figures.__dataclass_fields__)
    unmeasured = {name for name, value in printed.items() if value is None}
    assert unmeasured == {
        "alone_ratio_compiled",
        "speedup_8_users_compiled",
        "mean_wait_ratio_8_users_compiled",
    }
    for name in ("alone_ratio", "speedup_8_users", "mean_wait_ratio_8_users"):
        assert 0 < printed[name]["low"] <= printed[name]["median"] <= printed[name]["high"], name
    for name in (
        "loop_lag_p99_ms",
        "overhead_ms_per_image",
        "preview_share_of_step",
        "eta_median_error",
    ):
        assert printed[name] > 0, name
    assert printed["seconds"].keys() == {PIPELINE, ENGINE}
    assert printed["load"] >= 0
    assert 0 <= printed["others_share"] <= 1


@pytest.mark.rare
def test_a_contender_that_is_loaded_in_one_thread_and_run_in_another_is_refused() -> None:
    with pytest.raises(Unfair, match="loaded in one thread"):
        take_turn(assignment(), module="tests.bot.mixed_threads")


def test_a_contender_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(BenchFailed, match=r"'pipeline' failed: .*no/such/model"):
        take_turn(
            dataclasses.replace(
                assignment(), settings={**assignment().settings, "model": "no/such/model/here"}
            )
        )


def test_the_pipeline_runs_without_what_is_set_for_our_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")
    assert "GOMP_SPINCOUNT" not in rounds._environment(PIPELINE)
    assert rounds._environment(ENGINE)["GOMP_SPINCOUNT"] == "2000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    assert rounds._environment(PIPELINE)["GOMP_SPINCOUNT"] == "1"


def test_contenders_take_turns_and_every_second_round_goes_the_other_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def turn(given: Assignment, _pictures: object) -> Turn:
        order.append(given.contender)
        return Turn(report(given.contender, alone=[1.0], ends=[1.0]), 0.0, 0.0)

    monkeypatch.setattr(rounds, "take_turn", turn)
    rounds.take_turns({"a": assignment("a"), "b": assignment("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_ratio_is_the_median_of_its_rounds_with_their_range() -> None:
    taken = Rounds()
    for ours, theirs in ((1.0, 2.0), (4.0, 2.0), (3.0, 2.0)):
        for name, seconds in (("ours", ours), ("theirs", theirs)):
            one = report(name, alone=[seconds, seconds, 99.0], ends=[0.5, seconds])
            taken.turns.append(Turn(one, 0.0, 0.0))
    assert taken.alone_ratio("ours", "theirs") == Spread(1.5, 0.5, 2.0)
    assert taken.speedup("ours", "theirs") == Spread(2 / 3, 0.5, 2.0)
    assert taken.alone("ours") == Spread(3.0, 1.0, 4.0)


@pytest.mark.rare
def test_the_pictures_of_eight_users_are_those_made_alone_and_by_the_pipeline(
    printed: dict[str, Any],
) -> None:
    assert printed["pixels_equal"] is True
    assert printed["pixels_compared"] == 8
    assert printed["pixels_largest_difference"] <= 1
    assert printed["pixels_equal_share"] > 0.99


@pytest.mark.rare
def test_the_curve_goes_to_32_users(printed: dict[str, Any]) -> None:
    assert [point["users"] for point in printed["curve"]] == [1, 2, 4, 8, 16, 32]


def test_the_table_shows_ranges_what_was_not_measured_the_curve_and_a_busy_machine() -> None:
    point = {"users": 1, "images_per_second": 1.0, "steps_per_second": 25.0}
    figures = Figures(
        device="cpu",
        dtype="float32",
        model="starter",
        others_share=0.4,
        alone_ratio=Spread(1.0, 0.9, 1.1),
        curve=[{**point, "mean_wait_seconds": 1.0}],
    )
    with command.console.out.capture() as output:
        command._print(figures)
    text = output.get()
    assert "not measured" in text
    assert "1.000 (0.900 to 1.100)" in text
    assert "█" in text
    assert "Other programs took 40 % of this machine" in text


async def test_figures_are_of_what_their_names_say_whatever_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Settings] = []

    def note(settings: Settings, profile: object) -> NoReturn:
        opened.append(settings)
        raise NotOpened

    monkeypatch.setattr(users, "open_queue", note)
    settings = Settings(compile=True, token=SecretStr("secret"))
    figures: Any = None
    with pytest.raises(NotOpened):
        await command._serve(figures, settings, locate("starter"), LEAST)
    assert [one.compile for one in opened] == [False]
    given = command._assignment(PIPELINE, settings, LEAST)
    assert given.settings["compile"] is False
    assert given.settings["token"] is None


@pytest.mark.rare
def test_the_pipeline_is_loaded_without_a_word_of_what_it_would_like_to_have() -> None:
    code = (
        "from bot.bench.reference import Reference; from generation.models.locate import locate; "
        "Reference(locate('starter'), device='cpu', dtype=None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.rare
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
