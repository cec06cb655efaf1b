"""The benchmark itself: what is measured, in which order, and how it is told."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from generation.locate import ModelProfile
from generation.request import GeneratedImage, GenerationRequest

from .. import console
from ..config import Settings, load_settings

if TYPE_CHECKING:
    from .reference import Picture, Reference

_USERS: Final = 8
_CURVE: Final = (1, 2, 4, 8, 16, 32)
_BAR: Final = 40


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: steps of the users' pictures and of one alone, and repetitions."""

    steps: tuple[int, int]
    alone_steps: int
    repetitions: int
    curve_steps: tuple[int, int]
    overhead_jobs: int
    compiled: bool


_FULL: Final = Extent((20, 50), 30, 5, (20, 50), 400, compiled=True)
_QUICK: Final = Extent((8, 18), 12, 3, (3, 6), 80, compiled=False)


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured. Ratios are ours over the pipeline's, speed-ups the pipeline's over ours.

    `pixels_equal` is whether every picture that was made beside others is, to the last bit, the
    one that is made alone and, where the networks sum in the same order, the pipeline's. The
    other `pixels_` figures compare with the pipeline as it comes: the largest difference of 255,
    and the share of pixels without any.
    """

    device: str
    dtype: str
    model: str
    pixels_equal: bool = False
    pixels_equal_together_and_alone: int = 0
    pixels_equal_to_pipeline_with_our_kernels: int = 0
    pixels_compared: int = 0
    pixels_largest_difference: int = 0
    pixels_equal_share: float = 0.0
    alone_ratio: float = 0.0
    alone_ratio_compiled: float | None = None
    alone_seconds: float = 0.0
    speedup_8_users: float = 0.0
    speedup_8_users_compiled: float | None = None
    mean_wait_ratio_8_users: float = 0.0
    eta_median_error: float | None = None
    loop_lag_p50_ms: float = 0.0
    loop_lag_p99_ms: float = 0.0
    preview_share_of_step: float = 0.0
    overhead_ms_per_image: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


@console.one_sentence
def bench(config: Any, *, model: str | None, as_json: bool, quick: bool) -> int:
    """Measure and print; return the exit code, which is 0 whatever the figures are."""
    settings = load_settings(config, model=model)
    profile = console.locate_model(settings.model)
    with console.status("Measuring; nothing else should run now"):
        figures = asyncio.run(_measure(settings, profile, _QUICK if quick else _FULL))
    if as_json:
        console.out.print(json.dumps(asdict(figures)), markup=False)
    else:
        _tell(figures)
    return 0


async def _measure(settings: Settings, profile: ModelProfile, extent: Extent) -> Figures:
    # Here, because these load torch.
    from .overhead import overhead  # noqa: PLC0415
    from .reference import Reference  # noqa: PLC0415
    from .requests import requests  # noqa: PLC0415

    reference = Reference(profile, device=settings.device, dtype=settings.dtype)
    figures = Figures(
        device=reference.name,
        dtype=str(reference.dtype).removeprefix("torch."),
        model=profile.name,
    )
    side = profile.native_size
    users = requests(_USERS, side=side, steps=extent.steps)
    [single] = requests(1, side=side, steps=(extent.alone_steps,) * 2)
    made = await _eager(figures, settings, profile, reference, users, single, extent)
    figures.overhead_ms_per_image = 1e3 * await overhead(made[0], count=extent.overhead_jobs)
    if extent.compiled:
        await _compiled(figures, settings, profile, reference, users, single, extent)
    reference.sum_like_the_engine()
    _compare_kernels(figures, reference, users, made)
    return figures


async def _eager(
    figures: Figures,
    settings: Settings,
    profile: ModelProfile,
    reference: Reference,
    users: Sequence[GenerationRequest],
    single: GenerationRequest,
    extent: Extent,
) -> list[GeneratedImage]:
    """Measure everything that needs no compiler, and return the pictures of the eight users.

    Nothing is compiled for it, whatever the configuration says.
    """
    from .requests import requests  # noqa: PLC0415
    from .serving import serve  # noqa: PLC0415
    from .users import open_queue, rush  # noqa: PLC0415

    settings = settings.model_copy(update={"compile": False})
    async with open_queue(settings, profile) as queue:
        figures.alone_ratio, figures.alone_seconds = await _alone(
            partial(rush, queue), reference, single, extent
        )
        together = await rush(queue, users)
        pictures, ends = await asyncio.to_thread(reference.timed, users)
        figures.speedup_8_users = ends[-1] / together.seconds
        figures.mean_wait_ratio_8_users = together.mean_wait / statistics.fmean(ends)
        lag = await serve(queue, users, progress_seconds=settings.progress_seconds)
        figures.loop_lag_p50_ms, figures.loop_lag_p99_ms = lag.percentile(50), lag.percentile(99)
        alone = [(await rush(queue, [request])).images[0] for request in users]
        _compare(figures, together.images, alone, pictures)
        errors = list(together.errors)
        for count in _CURVE:
            crowd = await rush(
                queue, requests(count, side=profile.native_size, steps=extent.curve_steps)
            )
            errors += crowd.errors
            asked = requests(count, side=profile.native_size, steps=extent.curve_steps)
            steps = sum(request.steps for request in asked)
            figures.curve.append(
                {
                    "users": count,
                    "images_per_second": count / crowd.seconds,
                    "steps_per_second": steps / crowd.seconds,
                    "mean_wait_seconds": crowd.mean_wait,
                }
            )
        figures.eta_median_error = statistics.median(errors) if errors else None
    figures.preview_share_of_step = await asyncio.to_thread(_preview_share, settings, profile)
    return together.images


async def _alone(
    rush: Any, reference: Reference, single: GenerationRequest, extent: Extent
) -> tuple[float, float]:
    """Return the median of ours over the pipeline's time, taken in turns, and ours in seconds."""
    await rush([single])
    await asyncio.to_thread(reference.timed, [single])
    ratios, seconds = [], []
    for _ in range(extent.repetitions):
        ours = (await rush([single])).seconds
        _, [theirs] = await asyncio.to_thread(reference.timed, [single])
        ratios.append(ours / theirs)
        seconds.append(ours)
    return statistics.median(ratios), statistics.median(seconds)


async def _compiled(
    figures: Figures,
    settings: Settings,
    profile: ModelProfile,
    reference: Reference,
    users: Sequence[GenerationRequest],
    single: GenerationRequest,
    extent: Extent,
) -> None:
    from .users import open_queue, rush  # noqa: PLC0415

    async with open_queue(settings.model_copy(update={"compile": True}), profile) as queue:
        figures.alone_ratio_compiled, _ = await _alone(
            partial(rush, queue), reference, single, extent
        )
        together = await rush(queue, users)
        _, ends = await asyncio.to_thread(reference.timed, users)
        figures.speedup_8_users_compiled = ends[-1] / together.seconds


def _preview_share(settings: Settings, profile: ModelProfile) -> float:
    """Return the time of a preview over that of the step before it, each the shortest of many."""
    from generation.fitting import synchronize  # noqa: PLC0415

    from ..engines import load_engine  # noqa: PLC0415
    from .requests import requests  # noqa: PLC0415

    engine = load_engine(settings, profile, shared=False)
    [request] = requests(1, side=profile.native_size, steps=(10, 10))
    [images] = engine.begin([request])
    assert isinstance(images, list)  # noqa: S101 - for the type checker; these are all valid
    device = images[0].latents.device

    def now() -> float:
        # An accelerator is only given its work by a call, and does it later.
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


def _compare(
    figures: Figures,
    together: Sequence[GeneratedImage],
    alone: Sequence[GeneratedImage],
    pipeline: Sequence[Picture],
) -> None:
    """Compare the users' pictures with those made alone, and with the pipeline's."""
    import numpy as np  # noqa: PLC0415

    figures.pixels_compared = len(together)
    figures.pixels_equal_together_and_alone = sum(
        one.pixels == other.pixels for one, other in zip(together, alone, strict=True)
    )
    away = np.stack(
        [
            np.abs(_array(ours).astype(int) - theirs)
            for ours, theirs in zip(together, pipeline, strict=True)
        ]
    )
    figures.pixels_largest_difference = int(away.max())
    figures.pixels_equal_share = float((away.max(axis=-1) == 0).mean())


def _compare_kernels(
    figures: Figures,
    reference: Reference,
    users: Sequence[GenerationRequest],
    made: Sequence[GeneratedImage],
) -> None:
    figures.pixels_equal_to_pipeline_with_our_kernels = sum(
        bool((_array(image) == reference.picture(request)).all())
        for request, image in zip(users, made, strict=True)
    )
    figures.pixels_equal = (
        figures.pixels_equal_together_and_alone
        == figures.pixels_equal_to_pipeline_with_our_kernels
        == figures.pixels_compared
    )


def _array(image: GeneratedImage) -> Picture:
    import numpy as np  # noqa: PLC0415

    pixels = image.pixels
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)


def _tell(figures: Figures) -> None:
    """Print the figures as a table, and the curve as bars."""
    table = Table(title=f"{figures.model} in {figures.dtype} on {figures.device}")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    for name, value in asdict(figures).items():
        if name not in {"device", "dtype", "model", "curve"}:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name, "not measured" if value is None else shown)
    console.out.print(table)
    most = max(point["steps_per_second"] for point in figures.curve)
    console.out.print("users   steps/s   images/s   mean wait")
    for point in figures.curve:
        bar = "█" * round(_BAR * point["steps_per_second"] / most)
        console.out.print(
            f"{point['users']:>5} {point['steps_per_second']:>9.1f} "
            f"{point['images_per_second']:>10.2f} {point['mean_wait_seconds']:>9.2f} s  {bar}",
            markup=False,
        )
