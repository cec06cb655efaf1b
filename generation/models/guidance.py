"""Classifier-free guidance, as formulas.

- Guidance: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598
- Rescaling, for models with zero terminal SNR: Lin et al. 2023, https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import torch


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
