"""How many rows fit into a call, measured on the device at hand.

Three things bound a call: the memory, the patience of anyone who wants to join (a call is not
broken off), and, where pictures have to be the same to the last bit, the sizes for which the
kernels of this device sum in the same order.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from ..timing import Sizes
from .memory import is_out_of_memory, release

log = logging.getLogger(__name__)

Call = Callable[[int], torch.Tensor]
"""Makes a call of so many rows that are all the same; returns `[rows, ...]`."""

LADDER: Final = (1, 2, 4, 8, 16, 32, 64)
# Where fewer threads may be better, and what they have to save.
_FEW_ROWS: Final = 4
_CLEARLY: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a call may be: one of `ladder` in rows, and at most `seconds` long.

    With `exact` only sizes count whose rows, wherever they are, equal the first of a call of
    `base` rows to the last bit. A call of `base` rows is always allowed.
    """

    base: int = 2
    ladder: tuple[int, ...] = LADDER
    seconds: float = 0.5
    exact: bool = True


def measure(call: Call, bounds: Bounds, device: torch.device) -> Sizes:
    """Return the sizes of calls that fit, with the seconds that each takes.

    The sizes grow until the next is too slow, or too large for the memory. Those that bring
    nothing are kept too: what else ran on the machine just then must not decide for all time,
    and who plans the calls (`batching.Sizes.split`) knows to do without them.

    Raises:
        torch.OutOfMemoryError: not even `bounds.base` rows fit.
    """
    reference, first = _timed(call, bounds.base, device)
    seconds = {bounds.base: min(first, _timed(call, bounds.base, device)[1])}
    for size in sorted(set(bounds.ladder) - {bounds.base}):
        try:
            rows, first = _timed(call, size, device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.info("%s rows do not fit into the memory of %s", size, device)
            break
        if bounds.exact and not _agree(rows, reference):
            log.debug("%s rows give other bits than %s", size, bounds.base)
            if first > bounds.seconds:
                break
            continue
        # The first call of a size may also choose kernels, or compile them.
        taken = min(first, _timed(call, size, device)[1])
        if size > bounds.base and taken > bounds.seconds:
            break
        seconds[size] = taken
    release(device)
    return Sizes(dict(sorted(seconds.items())))


def carry_over(call: Call, known: Sizes, larger: float, bounds: Bounds) -> Sizes:
    """Return the sizes of calls whose rows are `larger` times the rows of `known`.

    Everybody's next step waits for this, so nothing is timed, nothing is tried that takes longer
    than the largest call that is known, and with `exact` each size is called just once, to see
    whether it sums alike. The seconds are those of as many pixels in calls that are known.

    Raises:
        torch.OutOfMemoryError: not even `bounds.base` rows fit, where they had to be tried.
    """
    allowed = [size for size in sorted(bounds.ladder) if size * larger <= known.most]
    seconds = {
        size: known.time(max(1, math.ceil(size * larger))) for size in {bounds.base, *allowed}
    }
    if bounds.exact and len(seconds) > 1:
        reference = call(bounds.base)
        for size in sorted(seconds.keys() - {bounds.base}):
            if not _tried(call, size, reference):
                del seconds[size]
    return Sizes(dict(sorted(seconds.items())))


def _tried(call: Call, size: int, reference: torch.Tensor) -> bool:
    """Return whether a call of `size` fits and its rows are those of `reference`."""
    try:
        return _agree(call(size), reference)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False


def fewer_threads(call: Call, sizes: Sizes) -> tuple[Sizes, dict[int, int]]:
    """Return `sizes` with the times of the best number of threads, and where that is not all.

    The threads of a CPU wait for each other after each operation. With few rows that can cost
    more than it brings, and the more so the busier the machine. A number of threads for which
    the rows are not the same to the last bit is not taken.
    """
    everything = torch.get_num_threads()
    best: dict[int, int] = {}
    seconds = dict(sizes.seconds)
    cpu = torch.device("cpu")
    for size in sorted(seconds):
        if size > _FEW_ROWS:
            break
        reference = call(size)
        for count in sorted({1, max(1, everything // 2)} - {everything}):
            with computing_on(count):
                rows, first = _timed(call, size, cpu)
                taken = min(first, _timed(call, size, cpu)[1])
            if taken < _CLEARLY * seconds[size] and torch.equal(rows, reference):
                seconds[size], best[size] = taken, count
    return Sizes(seconds), best


@contextmanager
def computing_on(threads: int | None) -> Iterator[None]:
    """Compute on so many threads of the CPU while inside; None leaves that as it is."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _agree(rows: torch.Tensor, reference: torch.Tensor) -> bool:
    return torch.equal(rows, reference[:1].expand_as(rows))


def _timed(call: Call, size: int, device: torch.device) -> tuple[torch.Tensor, float]:
    """Return the rows of a call, and the seconds that it took."""
    synchronize(device)
    start = time.perf_counter()
    rows = call(size)
    synchronize(device)
    return rows, time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
