"""Initialises the UNet's cross attention so that each position looks at its patch of a sketch.

Cross attention has no positions. But the zeros around the latents tell every layer roughly where it
is: before any training, a linear map tells nine of ten positions of the 4x4 latents from their
features. Half of the heads start with that map as their queries, and with the numbers of patches as
their keys. So training need not find out which patch belongs where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import one_hot

from .networks import PATCHES, TOKENS

_RIDGE: Final = 1e-2
# By how much the logit of the right patch is above the others, on average.
_SHARPNESS: Final = 6.0
_UNSURE: Final = 0.2
_BATCH: Final = 64


@torch.no_grad()
def look_at_patches(
    unet: Any, noisy: torch.Tensor, timesteps: torch.Tensor, numbers: slice, loud: float
) -> dict[str, float]:
    """Make half of the heads of every cross attention look at the patch of their position.

    `noisy` [n, c, h, w] are latents with noise by `timesteps`, `numbers` where in a token the
    number of a patch is, one-hot times `loud`. Returns, by layer, the share of the spread of
    positions that its features explain, of those latents.
    """
    found = {}
    layers = cross_attentions(unet)
    for name, features in _features(unet, noisy, timesteps).items():
        layer = layers[name]
        queries, explained = _where(features)
        size = len(layer.to_q.weight) // layer.heads
        # Attention divides by the root of a head's size, and keys are `loud`.
        sharp = _SHARPNESS * size**0.5 / loud / max(explained, _UNSURE)
        for head in range(layer.heads // 2):
            rows = slice(head * size, (head + 1) * size)
            for projection in (layer.to_q, layer.to_k):
                projection.weight[rows] = 0
            places = slice(head * size, head * size + PATCHES)
            layer.to_q.weight[places] = queries.T * sharp
            layer.to_k.weight[places, numbers] = torch.eye(PATCHES)
        found[name] = explained
    return found


def cross_attentions(unet: Any) -> dict[str, Any]:
    """Return the cross attention layers of `unet`, by name."""
    return {name: layer for name, layer in unet.named_modules() if name.endswith("attn2")}


def _features(unet: Any, noisy: torch.Tensor, timesteps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the input of each cross attention's queries, [n, positions, width]."""
    found: dict[str, list[torch.Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(_keep(found.setdefault(name, [])), with_kwargs=True)
        for name, layer in cross_attentions(unet).items()
    ]
    silence = noisy.new_zeros(len(noisy), TOKENS, unet.config.cross_attention_dim)
    for start in range(0, len(noisy), _BATCH):
        rows = slice(start, start + _BATCH)
        unet(noisy[rows], timesteps[rows], silence[rows])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _keep(found: list[torch.Tensor]) -> Callable[..., None]:
    def hook(_layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else named["hidden_states"])

    return hook


def _where(features: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the linear map [width, 16] from features to their patch, and its quality.

    The map is a ridge regression on half of the features. Its quality is the share of variance
    that it explains in the other half.
    """
    _, positions, width = features.shape
    side, across = int(positions**0.5), int(PATCHES**0.5)
    line = torch.arange(side) * across // side
    patch = (line[:, None] * across + line).flatten()
    target = one_hot(patch, PATCHES).float() - 1 / PATCHES
    seen, unseen = (half.flatten(0, 1) for half in features.chunk(2))
    moments = seen.T @ seen / len(seen)
    moments += _RIDGE * moments.diagonal().mean() * torch.eye(width)
    wanted = target.repeat(len(seen) // positions, 1)
    found = torch.linalg.solve(moments, seen.T @ wanted / len(seen))
    wanted = target.repeat(len(unseen) // positions, 1)
    missed = (unseen @ found - wanted).square().mean()
    return found, float(1 - missed / wanted.square().mean())
