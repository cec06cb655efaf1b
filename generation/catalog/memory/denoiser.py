"""A file that holds the weights of the denoiser alone: the UNet or the transformer.

Such files are in the GGUF format, or .safetensors as ComfyUI takes them. The other parts of the
model come from a folder or a repository of the hub.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import ModelError
from ..headers import read_header
from .gguf import PLAIN, read_gguf_header, tensor_bytes

GGUF: Final = ".gguf"
# The folders of a whole checkpoint, beside which a denoiser would be.
_OTHER_PARTS: Final = ("first_stage_model.", "vae.", "cond_stage_model.", "text_encoders.")


@dataclass(frozen=True, slots=True)
class DenoiserFile:
    """A file with a denoiser.

    `quantization` is the type of most of the weights, such as `Q4_K`; None for plain numbers.
    `base_sha256` is the hash of the files of the other parts, known once the model is loaded.
    """

    path: Path
    quantization: str | None
    base_sha256: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Return whether the file is in the GGUF format."""
        return self.path.suffix.lower() == GGUF


def read_denoiser(path: Path) -> DenoiserFile:
    """Return the denoiser in the file `path`, of which only the header is read.

    Raises:
        ModelError: there is no such file, it is broken, or it holds more than a denoiser.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path}; check the spelling of the model.")
    if path.suffix.lower() == GGUF:
        return DenoiserFile(path, _gguf_quantization(path))
    names = read_header(path, what="the file").tensors
    if any(name.startswith(_OTHER_PARTS) for name in names):
        raise ModelError(
            f"{path} is a whole checkpoint; leave out `base`, which is for files that hold only "
            "the denoiser."
        )
    return DenoiserFile(path, None)


def _gguf_quantization(path: Path) -> str | None:
    header = read_gguf_header(path)
    bytes_by_type: Counter[str] = Counter()
    for info in header.tensors.values():
        bytes_by_type[info.dtype] += tensor_bytes(info)
    quantized = {kind: size for kind, size in bytes_by_type.items() if kind not in PLAIN}
    return max(quantized, key=lambda kind: (quantized[kind], kind)) if quantized else None
