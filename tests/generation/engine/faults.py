"""Faults that tests put into the networks, where they really come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from generation.engine.calibration import Bounds
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError
from generation.models.stable_diffusion import StableDiffusion
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

FULL = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to"
Fault = Callable[[torch.Tensor], bool]


def small_calls(engine: Engine) -> Engine:
    """Return `engine`, which does not try what larger calls take: that is not the subject."""
    engine._networks._bounds = Bounds(ladder=(1, 2, 4), seconds=60.0)
    return engine


@contextmanager
def unet_without_room(parts: StableDiffusion, does_not_fit: Fault) -> Iterator[list[int]]:
    """Have the UNet run out of memory, in its middle, where the latents are too much for it."""
    refused: list[int] = []
    seen: list[torch.Tensor] = []

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [inputs[0]]

    def run_out(*_: Any) -> None:
        if does_not_fit(seen[0]):
            refused.append(len(seen[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hooks = [
        parts.unet.register_forward_pre_hook(note),
        parts.unet.mid_block.register_forward_pre_hook(run_out),
    ]
    try:
        yield refused
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def decoder_without_room(parts: StableDiffusion, does_not_fit: Fault) -> Iterator[list[torch.Size]]:
    """Have the decoder run out of memory where the latents are too much for it."""
    calls: list[torch.Size] = []

    def run_out(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(inputs[0].shape)
        if does_not_fit(inputs[0]):
            raise RuntimeError(FULL)

    hook = parts.vae.decoder.register_forward_pre_hook(run_out)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def spoiled(network: torch.nn.Module, when: Callable[[], bool]) -> Iterator[None]:
    """Have a network give infinities instead of numbers."""

    def spoil(_: torch.nn.Module, __: object, output: Any) -> Any:
        if not when():
            return None
        if isinstance(output, tuple):
            return (torch.full_like(output[0], torch.inf), *output[1:])
        return torch.full_like(output, torch.inf)

    hook = network.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


def begin(engine: Engine, *requests: GenerationRequest) -> list[Denoising]:
    begun = engine.begin(requests)
    assert not any(isinstance(images, GenerationError) for images in begun)
    return [image for images in begun if isinstance(images, list) for image in images]


def run(engine: Engine, images: list[Denoising]) -> list[GeneratedImage | None]:
    while not all(image.done or image.failure for image in images):
        engine.step(images)
    return engine.finish(images)
