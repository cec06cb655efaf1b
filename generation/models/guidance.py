"""Classifier-free guidance, as formulas.

- Guidance: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598
- Guidance that a distilled network reads: Luo et al. 2023, https://arxiv.org/abs/2310.04378
- Rescaling, for models with zero terminal SNR: Lin et al. 2023, https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import torch
from torch.nn import functional


def guide(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return `u + s * (c - u)`: the prediction, pushed away from the negative prompt.

    It is equation 6 of Ho and Salimans with `s = 1 + w`.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: torch.Tensor, conditional: torch.Tensor, share: float) -> torch.Tensor:
    """Return a guided prediction [1, ...] whose deviation is nearer to that of the conditional one.

    It is equations 15 and 16 of Lin et al.; with a `share` of 1 both deviations are equal. Guidance
    adds contrast, which burns pictures out if the schedule ends in noise alone.
    """
    axes = tuple(range(1, guided.ndim))
    wanted = conditional.std(dim=axes, keepdim=True)
    rescaled = guided * (wanted / guided.std(dim=axes, keepdim=True))
    return share * rescaled + (1 - share) * guided


def embed_scale(scales: torch.Tensor, width: int) -> torch.Tensor:
    """Return the sines and cosines of guidance scales [rows] at many frequencies, [rows, width].

    It is the embedding of timesteps by Vaswani et al. (https://arxiv.org/abs/1706.03762), for a
    thousand times the scale.
    """
    half = width // 2
    step = torch.log(torch.tensor(10000.0)) / (half - 1)
    angles = (1000.0 * scales)[:, None] * torch.exp(torch.arange(half) * -step)[None, :]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return functional.pad(embedding, (0, width % 2))
