"""The mistake that the benchmark made: the pipeline is loaded in one thread and run in another."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bot.bench.contender import PipelineContender, PixelArray, carry_out
from bot.config import Settings
from generation.catalog.profile import ModelProfile
from generation.values.request import GenerationRequest


class MixedThreads(PipelineContender):
    def run(self, asked: Sequence[GenerationRequest]) -> tuple[list[PixelArray], list[float]]:
        async def elsewhere() -> Any:
            return await asyncio.to_thread(super(MixedThreads, self).run, asked)

        made: tuple[list[PixelArray], list[float]] = asyncio.run(elsewhere())
        return made


def load(kind: str, settings: Settings, profile: ModelProfile) -> MixedThreads:
    return MixedThreads(settings, profile, kind=kind)


if __name__ == "__main__":
    carry_out(Path(sys.argv[1]), load)
