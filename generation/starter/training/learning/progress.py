"""The parts of every training: a schedule of rates, averaged weights, checkpoints, a log."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

_EMA_SPEED: Final = 10
_SMOOTHING: Final = 0.98


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rates by step: a linear warm-up, a constant, and a linear decay on demand.

    The constant part has no fixed end, so the length of a training can be decided late: the decay
    of `decay_steps` starts at step `decay_from`, whenever that is set. The warm-up starts at step
    `warm_from`, where the optimizer has no state yet.
    """

    peak: float
    warmup: int = 300
    decay_from: int | None = None
    decay_steps: int = 1
    floor: float = 0.03
    warm_from: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        rate = self.peak * min(1.0, (step - self.warm_from + 1) / self.warmup)
        if self.decay_from is None or step < self.decay_from:
            return rate
        done = (step - self.decay_from) / self.decay_steps
        return rate * max(self.floor, 1.0 - done)

    @property
    def last_step(self) -> int | None:
        """Return the step at which the decay is over, or None while it has not begun."""
        return None if self.decay_from is None else self.decay_from + self.decay_steps


class Average:
    """An exponential moving average of parameters, which follows faster early in the training."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.values = {
            name: value.detach().clone().float() for name, value in network.named_parameters()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the parameters as they are after step `step`."""
        decay = min(self._decay, (1 + step) / (_EMA_SPEED + step))
        mine = list(self.values.values())
        theirs = [value.detach().float() for _, value in network.named_parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Load `values` of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Return the random generator of one step, which does not depend on earlier steps.

    So a resumed training draws the same numbers as an uninterrupted one.
    """
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    return torch.Generator("cpu").manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def save(state: Mapping[str, Any], file: Path) -> None:
    """Write a checkpoint atomically: the file is complete, or does not exist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(file)


def read(file: Path) -> dict[str, Any] | None:
    """Return the checkpoint in `file`, tensors and plain values only; None without a file."""
    if not file.is_file():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


class Log:
    """A file of JSON lines with the running means of the values of each step."""

    def __init__(self, file: Path, images: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._means: dict[str, torch.Tensor] = {}
        self._images = images
        self._since = (time.monotonic(), images)

    def measure(self, images: int, values: Mapping[str, torch.Tensor]) -> None:
        """Count `images` more, and add the values of a step to the means.

        The values stay on their device until a line is written, so no step waits for them.
        """
        self._images += images
        for name, value in values.items():
            old = self._means.get(name, value)
            self._means[name] = old + (1 - _SMOOTHING) * (value - old)

    def write(self, step: int, **more: Any) -> dict[str, Any]:
        """Append a line with the means and the images a second since the last line; return it."""
        now, (then, images) = time.monotonic(), self._since
        line = {
            "step": step,
            "images": self._images,
            "images_per_second": round((self._images - images) / max(now - then, 1e-9), 1),
            **{name: round(float(value), 5) for name, value in self._means.items()},
            **{name: float(f"{value:.3g}") for name, value in more.items()},
        }
        self._since = (now, self._images)
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        return line


@dataclass(slots=True)
class Stop:
    """Whether a signal asked this process to stop."""

    asked: bool = False


def asked_anywhere(stop: Stop, accelerator: Any) -> bool:
    """Return whether any process was asked to stop, since all must take the same steps."""
    if accelerator.num_processes == 1:
        # There is no other process to ask, and asking would wait for the GPU.
        return stop.asked
    if stop.asked:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a request to stop, which is read after each step."""
    stop = Stop()

    def ask(_number: int, _frame: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
