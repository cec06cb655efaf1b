"""How many rows a call may have, measured on this device.

Three things bound a call. Its rows have to fit into the memory. It may not take long, since an
image that wants to join waits for its end. Where pictures have to be the same to the last bit, the
kernels of this device have to sum in the same order as in other calls.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from ..timing import Sizes
from .memory import is_out_of_memory, release

log = logging.getLogger(__name__)

Call = Callable[[int], torch.Tensor]
"""Makes a call with so many equal rows, and returns `[rows, ...]`."""

LADDER: Final = (1, 2, 4, 8, 16, 32, 64)
# Up to so many rows fewer threads are tried, and used if a call takes at most this share.
_FEW_ROWS: Final = 4
_CLEARLY: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The calls that are allowed: with a number of rows from `ladder`, of at most `seconds`.

    With `exact` every row of a call also has to equal the first row of a call of `base` rows, to
    the last bit. A call of `base` rows is always allowed.
    """

    base: int = 2
    ladder: tuple[int, ...] = LADDER
    seconds: float = 0.5
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was measured of a model on this device: the sizes of its calls.

    A model with the same `weights_sha256` can use it when it is loaded again. `steps` and
    `decoding` are by the shapes of one row, `threads` by the shapes of whole calls. `native` is the
    shape in `steps` that was measured; the others were estimated from it.
    """

    weights_sha256: str
    text: Sizes
    decoding: Mapping[tuple[int, ...], Sizes]
    steps: Mapping[Any, Sizes]
    threads: Mapping[Any, int]
    native: Any


def measure(call: Call, bounds: Bounds, device: torch.device) -> Sizes:
    """Return the sizes of calls that fit, with the seconds that each takes.

    The sizes grow until the next one is too slow, or too large for the memory. Sizes that are no
    faster per row are kept too: another program may have slowed them down just now, and
    `Sizes.split` leaves out a size that does not pay.

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
        # The first call of a size may also choose or compile kernels.
        taken = min(first, _timed(call, size, device)[1])
        if size > bounds.base and taken > bounds.seconds:
            break
        seconds[size] = taken
    release(device)
    return Sizes(dict(sorted(seconds.items())))


def carry_over(call: Call, known: Sizes, larger: float, bounds: Bounds) -> Sizes:
    """Return the sizes of calls whose rows are `larger` times the rows of `known`.

    All images wait meanwhile. So nothing is timed, no call is made that takes longer than the
    largest known call, and with `exact` each size is called once, to see whether it sums in the
    same order. The seconds are those of known calls with as many pixels.

    Raises:
        torch.OutOfMemoryError: not even `bounds.base` rows fit, if they were tried.
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
    """Return `sizes` with the times of the best number of threads, and that number by size.

    A size for which all threads are best has no number. The threads of a CPU wait for each other
    after each operation, which can cost more than the threads save: with few rows, and on a busy
    machine. A number of threads that changes the last bits is not used.
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
    """Compute on so many threads of the CPU inside the block; None changes nothing."""
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
    """Return the rows of a call, and how many seconds the call took."""
    synchronize(device)
    start = time.perf_counter()
    rows = call(size)
    synchronize(device)
    return rows, time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
