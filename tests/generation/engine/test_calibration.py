from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from generation.engine import calibration
from generation.engine.calibration import LADDER, Bounds, carry_over, measure
from generation.engine.memory import is_out_of_memory
from generation.timing import Sizes

CPU = torch.device("cpu")
FULL = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"),
    "posix": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
}


class Device:
    """A call that takes the time, and gives the bits, that a test wants.

    The clock is its own: nothing here may depend on what else the machine does.
    """

    now = 0.0

    def __init__(
        self,
        *,
        seconds: Callable[[int], float] = lambda rows: 0.001,
        bits: Callable[[int], float] = lambda rows: 0.5,
        room: int = 10_000,
        full: Exception = FULL["torch"],
    ) -> None:
        self.calls: list[int] = []
        self._seconds, self._bits, self._room, self._full = seconds, bits, room, full

    def __call__(self, rows: int) -> torch.Tensor:
        self.calls.append(rows)
        if rows > self._room:
            raise self._full
        Device.now += self._seconds(rows)
        return torch.full((rows, 3), self._bits(rows))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: Device.now))


def test_sizes_grow_for_as_long_as_more_rows_take_no_longer() -> None:
    sizes = measure(Device(), Bounds(), CPU)
    assert tuple(sizes.seconds) == LADDER
    assert all(seconds == pytest.approx(0.001) for seconds in sizes.seconds.values())


def test_what_brings_nothing_is_known_too_and_left_out_by_the_plan() -> None:
    device = Device(seconds=lambda rows: 0.02 if rows <= 4 else 0.02 * (rows / 4) ** 2)
    sizes = measure(device, Bounds(ladder=(1, 2, 4, 8, 16), seconds=10), CPU)
    assert sizes.most == 16
    assert sizes.split(16) == (4, 4, 4, 4)


def test_a_machine_that_is_busy_at_the_start_takes_no_size_away() -> None:
    device = Device(seconds=lambda rows: 0.001 if rows <= 2 else 0.02 * rows)
    assert measure(device, Bounds(ladder=(1, 2, 4, 8)), CPU).most == 8


class TestCarryingOver:
    """From a shape whose calls of 1, 2, 4 and 16 rows are known to others."""

    KNOWN = Sizes({1: 0.1, 2: 0.1, 4: 0.2, 16: 0.6})

    @pytest.mark.parametrize(
        ("larger", "sizes"),
        [
            (4.0, {1: 0.2, 2: 0.4, 4: 0.6}),
            (1.0, {1: 0.1, 2: 0.1, 4: 0.2, 8: 0.4, 16: 0.6}),
            (0.25, {1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1, 16: 0.2, 32: 0.4, 64: 0.6}),
        ],
    )
    def test_calls_have_as_many_pixels_and_take_as_long(
        self, larger: float, sizes: dict[int, float]
    ) -> None:
        carried = carry_over(Device(), self.KNOWN, larger, Bounds())
        assert carried.seconds == pytest.approx(sizes)

    def test_the_base_is_offered_however_large_it_is(self) -> None:
        device = Device()
        assert carry_over(device, self.KNOWN, 64.0, Bounds()).seconds.keys() == {2}
        assert device.calls == []

    def test_each_is_called_once_where_it_has_to_be_exact_and_not_at_all_elsewhere(self) -> None:
        device = Device(bits=lambda rows: 0.5 + (rows == 4))
        assert set(carry_over(device, self.KNOWN, 2.0, Bounds()).seconds) == {1, 2, 8}
        assert sorted(device.calls) == [1, 2, 4, 8]
        device = Device()
        assert set(carry_over(device, self.KNOWN, 2.0, Bounds(exact=False)).seconds) == {1, 2, 4, 8}
        assert device.calls == []

    def test_what_does_not_fit_into_the_memory_is_not_offered(self) -> None:
        assert carry_over(Device(room=4), self.KNOWN, 1.0, Bounds()).most == 4
        with pytest.raises(torch.OutOfMemoryError):
            carry_over(Device(room=1), self.KNOWN, 1.0, Bounds())


@pytest.mark.parametrize("full", FULL.values(), ids=FULL)
def test_what_does_not_fit_into_the_memory_is_not_offered(full: Exception) -> None:
    device = Device(room=8, full=full)
    assert measure(device, Bounds(), CPU).most == 8
    assert device.calls.count(16) == 1
    assert 32 not in device.calls


def test_not_even_the_smallest_call_fits() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        measure(Device(room=1), Bounds(), CPU)


def test_another_error_is_not_taken_for_memory() -> None:
    broken = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        measure(Device(room=4, full=broken), Bounds(), CPU)


def test_sizes_with_other_bits_are_left_out_where_it_has_to_be_exact() -> None:
    def bits(rows: int) -> float:
        return 0.5 if rows in (2, 8, 32) else 0.5000001

    assert set(measure(Device(bits=bits), Bounds(), CPU).seconds) == {2, 8, 32}
    assert set(measure(Device(bits=bits), Bounds(exact=False), CPU).seconds) == set(LADDER)


def test_a_size_of_which_one_row_has_other_bits_is_left_out() -> None:
    def call(rows: int) -> torch.Tensor:
        made = torch.full((rows, 3), 0.5)
        if rows == 8:
            made[7, 1] = 0.6
        return made

    assert 8 not in measure(call, Bounds(ladder=(2, 4, 8, 16)), CPU).seconds


def test_the_base_is_offered_however_slow_it_is_and_whether_or_not_it_is_on_the_ladder() -> None:
    device = Device(seconds=lambda rows: 0.01 * rows)
    assert set(measure(device, Bounds(base=6, ladder=(8, 16), seconds=0.001), CPU).seconds) == {6}
    assert max(device.calls) == 8


def test_a_call_is_no_longer_than_others_have_patience_for() -> None:
    device = Device(seconds=lambda rows: 0.01 * rows**0.5)
    sizes = measure(device, Bounds(seconds=0.03), CPU)
    assert sizes.most == 8  # 28 ms; 16 rows are 40 ms
    assert max(device.calls) == 16


def test_what_is_too_slow_is_not_followed_by_what_is_slower_even_with_other_bits() -> None:
    device = Device(seconds=lambda rows: 0.005 * rows, bits=lambda rows: 0.5 + (rows > 2) * rows)
    assert set(measure(device, Bounds(seconds=0.03), CPU).seconds) == {1, 2}
    assert max(device.calls) == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out_are_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
