"""The benchmark: what is measured, in which order, and how it is printed."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from generation.catalog.profile import ModelProfile
from generation.values.recipe import GeneratedImage

from .. import console
from ..config import Settings, load_settings

if TYPE_CHECKING:
    from .contender import Assignment
    from .rounds import Rounds, Spread

_CURVE: Final = (1, 2, 4, 8, 16, 32)
_BAR: Final = 40
# Above this share other programs influence the figures, and a ratio means little.
_BUSY_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    `steps` is the range of steps of the users' pictures, `alone_steps` the steps of one picture
    alone, `repetitions` how often a process makes that one. `rounds` and `compiled_rounds` are the
    numbers of fresh processes. `curve_steps` is the range for the curve of users, and
    `overhead_jobs` the number of jobs that measure the overhead.
    """

    steps: tuple[int, int]
    alone_steps: int
    repetitions: int
    rounds: int
    compiled_rounds: int
    curve_steps: tuple[int, int]
    overhead_jobs: int


_FULL: Final = Extent((20, 50), 30, 5, 5, 3, (20, 50), 400)
_QUICK: Final = Extent((8, 18), 12, 3, 3, 0, (3, 6), 80)


@dataclass(slots=True, kw_only=True)
class Figures:
    """The results. Each figure is the median of fresh processes, with its range.

    A ratio is our time divided by the pipeline's; a speed-up is the pipeline's divided by ours. The
    compiled engine is compared with the compiled pipeline. `seconds` has each contender's own
    times. `load` is the machine's load average before the start. `others_share` is the part of
    the processors that other programs took; above 0.1 the figures mean little.

    `pixels_equal` says whether every picture that was made together with others equals, to the
    last bit, the same picture made alone, and the pipeline's if that uses our kernels. The other
    `pixels_` figures compare with the pipeline's own kernels: the largest difference of 255, and
    the share of equal pixels.
    """

    device: str
    dtype: str
    model: str
    load: float = 0.0
    others_share: float = 0.0
    rounds: int = 0
    pixels_equal: bool = False
    pixels_equal_together_and_alone: int = 0
    pixels_equal_to_pipeline_with_our_kernels: int = 0
    pixels_compared: int = 0
    pixels_largest_difference: int = 0
    pixels_equal_share: float = 0.0
    alone_ratio: Spread | None = None
    alone_ratio_compiled: Spread | None = None
    speedup_8_users: Spread | None = None
    speedup_8_users_compiled: Spread | None = None
    mean_wait_ratio_8_users: Spread | None = None
    mean_wait_ratio_8_users_compiled: Spread | None = None
    eta_median_error: float | None = None
    loop_lag_p50_ms: float = 0.0
    loop_lag_p99_ms: float = 0.0
    preview_share_of_step: float = 0.0
    overhead_ms_per_image: float = 0.0
    seconds: dict[str, dict[str, Spread]] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


@console.one_sentence
def bench(config: Any, *, model: str | None, as_json: bool, quick: bool) -> int:
    """Measure and print; return the exit code, which does not depend on the figures."""
    settings = load_settings(config).of_one(model)
    profile = console.locate_model(settings.default_model)
    with console.status("Measuring; nothing else should run now"):
        figures = _measure(settings, profile, _QUICK if quick else _FULL)
    if as_json:
        console.out.print(json.dumps(asdict(figures)), markup=False)
    else:
        _print(figures)
    return 0


def _measure(settings: Settings, profile: ModelProfile, extent: Extent) -> Figures:
    from .contender import PIPELINE  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="imagine-bot-bench-") as folder:
        taken = _compete(settings, extent, Path(folder))
        first = taken.of(PIPELINE)[0]
        figures = Figures(
            device=first.device,
            dtype=first.dtype,
            model=profile.name,
            load=taken.turns[0].load,
            others_share=statistics.median(turn.others for turn in taken.turns),
            rounds=extent.rounds,
        )
        _compare_times(figures, taken, is_compiled=bool(extent.compiled_rounds))
        _compare_pixels(figures, Path(folder))
    asyncio.run(_serve(figures, settings, profile, extent))
    return figures


def _compete(settings: Settings, extent: Extent, pictures: Path) -> Rounds:
    """Return the times of all contenders; write the users' pictures to the folder `pictures`."""
    from . import contender as names  # noqa: PLC0415
    from .rounds import take_turn, take_turns  # noqa: PLC0415

    def assigned(*contenders: str) -> dict[str, Assignment]:
        return {name: _assignment(name, settings, extent) for name in contenders}

    taken = take_turns(assigned(names.PIPELINE, names.ENGINE), extent.rounds, pictures=pictures)
    compiled = assigned(names.PIPELINE_COMPILED, names.ENGINE_COMPILED)
    taken.turns += take_turns(compiled, extent.compiled_rounds).turns
    # Only the pixels of this contender are used, not its times.
    take_turn(assigned(names.PIPELINE_WITH_OUR_KERNELS)[names.PIPELINE_WITH_OUR_KERNELS], pictures)
    return taken


def _assignment(name: str, settings: Settings, extent: Extent) -> Assignment:
    from .contender import ENGINE, PIPELINE, PIPELINE_WITH_OUR_KERNELS, Assignment  # noqa: PLC0415

    # The contender's name decides whether it is compiled. No process of the benchmark needs the
    # token.
    changed = {"token": None, "compile": False}
    return Assignment(
        contender=name,
        settings=settings.model_copy(update=changed).model_dump(mode="json"),
        steps=extent.steps,
        alone_steps=extent.alone_steps,
        repetitions=extent.repetitions,
        keeps_pictures=name in (ENGINE, PIPELINE, PIPELINE_WITH_OUR_KERNELS),
    )


def _compare_times(figures: Figures, taken: Rounds, *, is_compiled: bool) -> None:
    from . import contender as names  # noqa: PLC0415

    figures.alone_ratio = taken.alone_ratio(names.ENGINE, names.PIPELINE)
    figures.speedup_8_users = taken.speedup(names.ENGINE, names.PIPELINE)
    figures.mean_wait_ratio_8_users = taken.wait_ratio(names.ENGINE, names.PIPELINE)
    measured = [names.PIPELINE, names.ENGINE]
    if is_compiled:
        pair = names.ENGINE_COMPILED, names.PIPELINE_COMPILED
        figures.alone_ratio_compiled = taken.alone_ratio(*pair)
        figures.speedup_8_users_compiled = taken.speedup(*pair)
        figures.mean_wait_ratio_8_users_compiled = taken.wait_ratio(*pair)
        measured += reversed(pair)
    figures.seconds = {
        name: {"alone": taken.alone(name), "eight_users": taken.users(name)} for name in measured
    }


async def _serve(
    figures: Figures, settings: Settings, profile: ModelProfile, extent: Extent
) -> None:
    """Measure what only our service has: the curve of users, estimates, lag, and overhead.

    Nothing is compiled here, whatever the configuration says.
    """
    # Imported here because they load torch.
    from .contender import USERS  # noqa: PLC0415
    from .overhead import overhead  # noqa: PLC0415
    from .requests import requests  # noqa: PLC0415
    from .serving import serve  # noqa: PLC0415
    from .users import open_queue, rush  # noqa: PLC0415

    settings = settings.model_copy(update={"compile": False})
    users = requests(USERS, side=profile.native_size, steps=extent.steps)
    async with open_queue(settings, profile) as queue:
        together = await rush(queue, users)
        lag = await serve(queue, users, progress_seconds=settings.progress_seconds)
        figures.loop_lag_p50_ms, figures.loop_lag_p99_ms = lag.percentile(50), lag.percentile(99)
        errors = list(together.errors)
        for count in _CURVE:
            asked = requests(count, side=profile.native_size, steps=extent.curve_steps)
            crowd = await rush(queue, asked)
            errors += crowd.errors
            figures.curve.append(
                {
                    "users": count,
                    "images_per_second": count / crowd.seconds,
                    "steps_per_second": sum(one.steps for one in asked) / crowd.seconds,
                    "mean_wait_seconds": crowd.mean_wait,
                }
            )
        figures.eta_median_error = statistics.median(errors) if errors else None
    made: GeneratedImage = together.images[0]
    figures.overhead_ms_per_image = 1e3 * await overhead(made, count=extent.overhead_jobs)
    figures.preview_share_of_step = await asyncio.to_thread(_preview_share, settings, profile)


def _preview_share(settings: Settings, profile: ModelProfile) -> float:
    """Return the time of a preview divided by that of a step, each the shortest of many."""
    from generation.engine.calibration import synchronize  # noqa: PLC0415

    from ..engines import load_engine  # noqa: PLC0415
    from .requests import requests  # noqa: PLC0415

    engine = load_engine(settings, profile, shared=False)
    [request] = requests(1, side=profile.native_size, steps=(10, 10))
    [images] = engine.begin([request])
    assert isinstance(images, list)  # noqa: S101 - for the type checker; these are all valid
    device = images[0].latents.device

    def now() -> float:
        # A call only queues work on an accelerator.
        synchronize(device)
        return time.perf_counter()

    steps, looks = [], []
    while not images[0].done:
        start = now()
        engine.step(images)
        stepped = now()
        engine.preview(images[0])
        steps.append(stepped - start)
        looks.append(now() - stepped)
    return min(looks) / min(steps)


def _compare_pixels(figures: Figures, folder: Path) -> None:
    """Compare the users' pictures with those made alone, and with the pipeline's."""
    import numpy as np  # noqa: PLC0415

    from .contender import ENGINE, PIPELINE, PIPELINE_WITH_OUR_KERNELS  # noqa: PLC0415

    ours = np.load(folder / f"{ENGINE} together.npy")
    alone = np.load(folder / f"{ENGINE} alone.npy")
    theirs = np.load(folder / f"{PIPELINE} together.npy")
    alike = np.load(folder / f"{PIPELINE_WITH_OUR_KERNELS} together.npy")
    away = np.abs(ours.astype(int) - theirs)
    figures.pixels_compared = len(ours)
    figures.pixels_largest_difference = int(away.max())
    figures.pixels_equal_share = float((away.max(axis=-1) == 0).mean())
    figures.pixels_equal_together_and_alone = _equal(ours, alone)
    figures.pixels_equal_to_pipeline_with_our_kernels = _equal(ours, alike)
    figures.pixels_equal = (
        figures.pixels_equal_together_and_alone
        == figures.pixels_equal_to_pipeline_with_our_kernels
        == figures.pixels_compared
    )


def _equal(some: Sequence[Any], others: Sequence[Any]) -> int:
    return sum(bool((one == other).all()) for one, other in zip(some, others, strict=True))


def _print(figures: Figures) -> None:
    """Print the figures as a table, and the curve as bars."""
    table = Table(title=f"{figures.model} in {figures.dtype} on {figures.device}")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    for name, value in asdict(figures).items():
        if name == "seconds":
            for contender, times in value.items():
                for what, spread in times.items():
                    table.add_row(f"{contender}, {what}, seconds", _shown(spread))
        elif name not in {"device", "dtype", "model", "curve"}:
            table.add_row(name, _shown(value))
    console.out.print(table)
    if figures.others_share > _BUSY_SHARE:
        console.out.print(
            f"Other programs took {100 * figures.others_share:.0f} % of this machine; stop them "
            "and measure again before you trust these figures."
        )
    most = max(point["steps_per_second"] for point in figures.curve)
    console.out.print("users   steps/s   images/s   mean wait")
    for point in figures.curve:
        bar = "█" * round(_BAR * point["steps_per_second"] / most)
        console.out.print(
            f"{point['users']:>5} {point['steps_per_second']:>9.1f} "
            f"{point['images_per_second']:>10.2f} {point['mean_wait_seconds']:>9.2f} s  {bar}",
            markup=False,
        )


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, dict):
        return f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
