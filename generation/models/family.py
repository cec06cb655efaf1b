"""What the engine needs of a model, whatever family the model belongs to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import torch

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .text.tokens import TokenizedPrompt

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """What the network is told of some texts: named tensors, each [texts, ...]."""

    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def stack(cls, rows: Sequence[Conditioning]) -> Self:
        """Return the texts of all `rows` together; they have the same names and shapes."""
        names = rows[0].tensors
        return cls({name: torch.cat([row.tensors[name] for row in rows]) for name in names})

    @property
    def shape(self) -> Shapes:
        """Return each name with the shape of one text's tensor."""
        return tuple((name, tuple(tensor.shape[1:])) for name, tensor in self.tensors.items())

    def split(self) -> list[Conditioning]:
        """Return each text by itself."""
        texts = len(next(iter(self.tensors.values())))
        return [self.row(index) for index in range(texts)]

    def beside(self, others: Mapping[str, torch.Tensor]) -> Conditioning:
        """Return the same with other named tensors, which hold one row for each text."""
        return Conditioning({**self.tensors, **others}) if others else self

    def row(self, index: int) -> Conditioning:
        """Return a copy of one text's tensors, which does not keep those of the others alive."""
        return Conditioning(
            {name: tensor[index : index + 1].clone() for name, tensor in self.tensors.items()}
        )

    def flat(self) -> torch.Tensor:
        """Return the numbers of each text in one row, [texts, numbers], to compare texts."""
        # What says how long a text is may lie on the CPU, beside the text on a GPU.
        first, *others = self.tensors.values()
        return torch.cat([first.flatten(1), *(row.flatten(1).to(first) for row in others)], dim=1)

    @property
    def nbytes(self) -> int:
        """Return how many bytes of memory the tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Posterior:
    """What the encoder says of a picture: a normal distribution over latents, [1, c, h, w].

    Without `std` the latents are the mean, and nothing is drawn.
    """

    mean: torch.Tensor
    std: torch.Tensor | None


Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
"""One call of the network: latents [rows, ...], timesteps [rows] and texts to a prediction."""


class Model(Protocol):
    """A loaded model; each family is a class with these methods.

    `device` is where the model computes and where its inputs have to be; `dtype` is the type of
    its weights. Latents are `[rows, channels, height, width]`, have the scale that the network was
    trained on, and are of the type `latents_dtype` between the steps. Pictures come as float32. The
    model casts what it gets to the types of its networks. Only the engine's own thread may call the
    model.
    """

    @classmethod
    def load(
        cls,
        profile: ModelProfile,
        files: ModelFiles,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
        weights_sha256: str,
    ) -> Self:
        """Return the model in a folder, on its device; `compiled` says what will become of it.

        Raises:
            ModelError: a file is broken, or the memory of the device is too small.
        """

    @property
    def profile(self) -> ModelProfile:
        """Return what the model's configs say."""

    @property
    def device(self) -> torch.device:
        """Return the device."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights."""

    @property
    def latents_dtype(self) -> torch.dtype:
        """Return the type that latents have between the steps."""

    @property
    def weights_sha256(self) -> str:
        """Return the hash of the model's files."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """Return the settings of the schedule that the model was trained on."""

    def schedule(self, width: int, height: int, steps: int) -> Mapping[str, Any]:
        """Return what a schedule depends on for a picture of this size: `mu`, `sigmas` or nothing.

        These are arguments of the scheduler's `set_timesteps` beside the number of steps.
        """

    @property
    def pixels_per_latent(self) -> int:
        """Return how many pixels one latent stands for along an edge."""

    @property
    def tile_multiple(self) -> int:
        """Return the number of pixels of which the edge of a decoder's tile is a multiple."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the shape of the latents of one picture, [1, channels, height, width]."""

    def batch_key(self, latents: torch.Size, conditioning: Conditioning) -> Hashable:
        """Return what has to agree within one call of the network, the weights included."""

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens of a text, and what of the text the model does not read."""

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return what the network is told of each text; all texts have equally many tokens.

        The shapes may differ between calls for texts of other numbers of tokens.
        """

    def refer(self, pictures: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return what the network is told of references, each [1, 3, height, width] from -1 to 1.

        These are named tensors of one row, to be `beside` the tensors of a text. Those with four
        dimensions are latents. There are at most `profile.most_references` references.
        """

    def embed_guidance(self, scale: float) -> Mapping[str, torch.Tensor]:
        """Return what the network is told of a guidance scale, if the network reads one.

        These are named tensors of one row, to be `beside` the tensors of a text.
        """

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the network's prediction for each row."""

    def guide(
        self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the guided prediction; a `scale` of 1 is the conditional prediction alone."""

    def compiled(self) -> Predict:
        """Return `predict`, compiled for each shape at its first call."""

    @property
    def adaptable(self) -> Mapping[str, torch.nn.Module]:
        """Return the networks that a LoRA may change, by the names of their parts."""

    def adapted(self, networks: Mapping[str, torch.nn.Module]) -> Self:
        """Return the model with other networks in place of those parts; the rest is shared."""

    @property
    def inversion_widths(self) -> Mapping[str, int]:
        """Return the width of a token of each text encoder that reads textual inversions."""

    def with_inversions(self, inversions: Sequence[Mapping[str, torch.Tensor]]) -> Self:
        """Return a model whose text encoders know vectors [vectors, width] of inversions too."""

    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers; see `adapters.conversion`.

        Raises:
            Exception: the names are unknown.
        """

    def posterior(self, picture: torch.Tensor) -> Posterior:
        """Return the encoder's view of a picture [1, 3, height, width] from -1 to 1."""

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the encoder's latents at the scale of the network."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures of latents, [rows, 3, height, width] from -1 to 1."""

    def decode_in_tiles(self, latents: torch.Tensor, tile: int) -> torch.Tensor:
        """Return what `decode` does, from overlapping tiles of `tile` pixels.

        Tiles take less memory. They are blended, so the pixels differ from those of `decode`.
        """
