"""The shapes of the four parts, small enough for a laptop, in diffusers' own classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..drawings.things import STYLES

# A text is words, then tokens in which the text encoder writes for the UNet: the marks, and for
# each style a sketch in patches (see `sketches.py`). No caption has more words than this.
WORDS: Final = 23
SKETCHES: Final = len(STYLES)
PATCHES: Final = 16
TOKENS: Final = WORDS + 1 + SKETCHES * PATCHES


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the networks.

    `head` is the width of one head of the UNet's attention, at least `PATCHES` so that a head can
    tell patches apart; `vocabulary` bounds the entries of the tokenizer.
    """

    autoencoder: tuple[int, ...] = (24, 48, 64, 96)
    autoencoder_groups: int = 8
    latent_channels: int = 8
    unet: tuple[int, ...] = (80, 144, 176)
    unet_groups: int = 16
    unet_layers: int = 1
    head: int = 16
    text: int = 192
    text_layers: int = 4
    text_inner: int = 832
    text_heads: int = 8
    vocabulary: int = 4_096
    edge: int = 128

    @property
    def shrink(self) -> int:
        """Return the side of the picture divided by the side of the latents."""
        return 1 << (len(self.autoencoder) - 1)


def new_autoencoder(shape: Shape) -> Any:
    """Return an untrained autoencoder that shrinks pictures by 8 (with four widths)."""
    count = len(shape.autoencoder)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=shape.autoencoder,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.autoencoder_groups,
        sample_size=shape.edge,
        # Attention would tie the network to one picture size, and convolutions suffice.
        mid_block_add_attention=False,
    )
    _quieten(autoencoder)
    return autoencoder


def _quieten(network: nn.Module) -> None:
    """Start every residual block as the identity, with its last convolution at zero.

    Group normalisation hides the brightness and colour of a flat area, but the residual path keeps
    them. So colours are right after a third of the pictures that training needs otherwise.
    """
    for block in network.modules():
        if isinstance(block, ResnetBlock2D):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)


def new_unet(shape: Shape) -> Any:
    """Return an untrained UNet, with cross attention at every size of its latents."""
    count = len(shape.unet)
    return UNet2DConditionModel(
        sample_size=shape.edge // shape.shrink,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * count,
        up_block_types=("CrossAttnUpBlock2D",) * count,
        block_out_channels=shape.unet,
        layers_per_block=shape.unet_layers,
        cross_attention_dim=shape.text,
        # Despite its name in diffusers, this is the number of heads.
        attention_head_dim=tuple(width // shape.head for width in shape.unet),
        norm_num_groups=shape.unet_groups,
    )


def new_text_encoder(shape: Shape, tokenizer: Any) -> Any:
    """Return an untrained text encoder for the vocabulary of `tokenizer`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.text,
            intermediate_size=shape.text_inner,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=shape.text_heads,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def noise_schedule(kind: Any = DDPMScheduler, **settings: Any) -> Any:
    """Return the noise schedule: Stable Diffusion's with more noise at the end, and v-prediction.

    The colour of the background is decided where there is almost only noise. There the prediction
    of v (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512) still depends on the picture.

    With betas up to Stable Diffusion's 0.012, a fifteenth of the picture is left at the last
    timestep. Over 256 positions that is enough to tell colours apart, so the network relies on it.
    But a new picture starts from noise alone, which is gray on average, and half of the pictures
    came out gray (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed",
    https://arxiv.org/abs/2305.08891). With betas up to 0.02 a quarter of that rest is left. It must
    not be zero, because LMS divides by it.
    """
    return kind(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        num_train_timesteps=1_000,
        prediction_type="v_prediction",
        clip_sample=False,
        **settings,
    )


def parameters(*networks: nn.Module) -> int:
    """Return the number of parameters of the networks together."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters())
