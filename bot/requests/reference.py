"""How people name a picture: `42-3`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from generation.errors import InvalidRequest
from generation.values.request import COUNT_MAX

_REFERENCE: Final = re.compile(r"\s*#?(?P<job>\d{1,15})(?:\s*[-./# ]\s*(?P<number>\d{1,2}))?\s*")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Picture `number` (from 1) of job `job_id`, as people type it: `42` or `42-3`."""

    job_id: int
    number: int = 1

    def __str__(self) -> str:
        return f"{self.job_id}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read `42`, `#42`, `42-3`, `42.3`, `42/3` or `42 3`.

        Raises:
            InvalidRequest: the text is something else.
        """
        match = _REFERENCE.fullmatch(text)
        number = int(match["number"] or 1) if match else 0
        if match is None or not 1 <= number <= COUNT_MAX:
            raise InvalidRequest(
                "image",
                f"{text[:40]!r} names no picture; give a job id and a number, such as 42-1.",
            )
        return cls(int(match["job"]), number)
