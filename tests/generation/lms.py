"""Image to image by the linear multistep method, from its definition.

It shares no code with diffusers' scheduler: as in `sample_lms` of k-diffusion, the order at a
step is the number of derivatives that were taken so far, at most four, and each derivative
weighs as much as its Lagrange polynomial integrates to over the step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial import Polynomial

from generation.models.stable_diffusion import StableDiffusion
from generation.values.request import GenerationRequest

ORDER = 4
Derivative = Callable[[torch.Tensor, float, int], torch.Tensor]


def picture(parts: StableDiffusion, request: GenerationRequest) -> np.ndarray:
    """Return the picture of a guided request with a source, [height, width, 3] of 0 to 255.

    The model has to predict epsilon or v, with scaled-linear betas from 0.00085 on.
    """
    source, strength = request.source, request.strength
    assert source is not None
    assert strength is not None
    config = parts.profile.scheduler_config
    timesteps, sigmas = schedule(
        request.steps, config["beta_end"], trailing=config["timestep_spacing"] == "trailing"
    )
    start = request.steps - int(request.steps * strength)
    draws = torch.Generator("cpu").manual_seed(request.seed)
    text = torch.cat([_embed(parts, request.negative_prompt), _embed(parts, request.prompt)])

    def derivative(latents: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        seen = latents / (sigma**2 + 1) ** 0.5
        unguided, guided = parts.unet(
            torch.cat([seen, seen]), torch.tensor(timesteps[step]), encoder_hidden_states=text
        ).sample.chunk(2)
        predicted = unguided + request.guidance_scale * (guided - unguided)
        if parts.profile.prediction_type == "epsilon":
            return predicted
        # v is signal x epsilon - noise x picture, of which `seen` is the other mix.
        return (predicted + sigma * seen) / (sigma**2 + 1) ** 0.5

    with torch.inference_mode():
        rgb = np.frombuffer(source.rgb, np.uint8).reshape(source.height, source.width, 3)
        unit = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        posterior = parts.vae.encode(unit).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(
            posterior.mean.shape, generator=draws
        )
        latents = latents * parts.vae.config.scaling_factor
        latents = latents + sigmas[start] * torch.randn(latents.shape, generator=draws)
        latents = denoise(latents, derivative, sigmas, start)
        decoded = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    return ((decoded[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round()


def schedule(
    steps: int, beta_end: float = 0.012, *, trailing: bool = False
) -> tuple[list[int], list[float]]:
    """Return the timesteps and their sigmas and 0.

    They are those of `leading` spacing with an offset of 1, or of `trailing` spacing: table 2 of
    Lin et al. 2023, https://arxiv.org/abs/2305.08891.
    """
    betas = np.linspace(0.00085**0.5, beta_end**0.5, 1000) ** 2
    products = np.cumprod(1 - betas)
    if trailing:
        timesteps = [round(1000 - step * 1000 / steps) - 1 for step in range(steps)]
    else:
        timesteps = [1 + step * (1000 // steps) for step in reversed(range(steps))]
    return timesteps, [*(((1 - products) / products) ** 0.5)[timesteps].tolist(), 0.0]


def denoise(
    latents: torch.Tensor, derivative: Derivative, sigmas: list[float], start: int
) -> torch.Tensor:
    """Return the latents after all steps from `start` on."""
    past: list[torch.Tensor] = []
    for step in range(start, len(sigmas) - 1):
        past.insert(0, derivative(latents, sigmas[step], step))
        del past[ORDER:]
        nodes = [sigmas[step - back] for back in range(len(past))]
        for back, taken in enumerate(past):
            weight = _integral(nodes, back, sigmas[step], sigmas[step + 1])
            latents = latents + weight * taken
    return latents


def _integral(nodes: list[float], chosen: int, low: float, high: float) -> float:
    """Return the integral of the polynomial that is 1 at one node and 0 at the others."""
    others = [node for index, node in enumerate(nodes) if index != chosen]
    basis = Polynomial.fromroots(others) if others else Polynomial([1.0])
    whole = (basis / basis(nodes[chosen])).integ()
    return float(whole(high) - whole(low))


def _embed(parts: StableDiffusion, text: str) -> torch.Tensor:
    limit = parts.profile.token_limit
    ids = parts.tokenizer(
        text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        return parts.text_encoder(ids).last_hidden_state
