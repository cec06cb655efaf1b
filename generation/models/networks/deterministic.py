"""Networks whose rows do not depend on each other, to the last bit.

Libraries choose a kernel by the shape of its input, and another kernel sums in another order. On a
CPU three kinds of modules depend on the number of rows:

- convolutions, which oneDNN plans again for each shape;
- linear layers on `[rows, channels]`, where the rows are a dimension of the matrix product;
- the normalisation of groups, where threads may share a row.

They are replaced here by modules whose row `k` is the same whatever rows are beside it. So a
picture depends neither on the load nor on other pictures.

The convolutions keep their weights in oneDNN's own order. That also saves reordering the weights at
every call, which at two rows is a good part of the call.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

import torch
from torch import nn

from .quantized import dequantized

UNET_VECTOR_LAYERS: Final = ("time_embedding.", "add_embedding.", "time_emb_proj")
"""Parts of the names of the layers of diffusers' UNets that get one vector a row."""

_PACKED_ROWS: Final = 8
_PACKED_SHAPES: Final = 4
# Packed copies take memory. Larger networks compute for so long that the time for packing at every
# call does not matter, so their convolutions stay as they are.
_PACKED_BYTES: Final = 2**30


class PackedConv2d(nn.Module):
    """A convolution by oneDNN whose weights are packed once; only the last bits differ.

    It takes and returns what `torch.nn.Conv2d` does. The padding has to be zeros. The best order
    of the weights depends on the height and width of the input, so there is a packed copy for each
    size of pictures that are being made. The weights are packed again when the weight is
    replaced or changed in place. Only a change of the numbers in `weight.data` is not noticed.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self._geometry = (
            [int(side) for side in plain.padding],
            list(plain.stride),
            list(plain.dilation),
            plain.groups,
        )
        self.weight = plain.weight
        self.bias: torch.Tensor | None = plain.bias
        # These are no parameters: a packed tensor can be neither saved nor moved.
        self._packed: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        # Holds the weight too, so that no other weight can get its id.
        self._packed_from = _state(self.weight), [self.weight]

    def forget_packed(self) -> None:
        """Share no packed weights with the layer of which this one is a copy."""
        self._packed = OrderedDict()
        self._packed_from = _state(self.weight), [self.weight]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `rows` [n, channels, height, width]."""
        convolved: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            rows, self._weight_for(rows.shape), self.bias, *self._geometry, "none", [], ""
        )
        return convolved

    def _weight_for(self, shape: torch.Size) -> torch.Tensor:
        state = _state(self.weight)
        if state != self._packed_from[0]:
            self._packed.clear()
            self._packed_from = state, [self.weight]
        key = tuple(shape[2:])
        if key not in self._packed:
            # Always packed for the same number of rows: another number might give another order.
            self._packed[key] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self._geometry, (_PACKED_ROWS, *shape[1:])
            )
            if len(self._packed) > _PACKED_SHAPES:
                self._packed.popitem(last=False)
        self._packed.move_to_end(key)
        return self._packed[key]


def _state(weight: torch.Tensor) -> tuple[int, int, int]:
    """Return what changes when a weight is replaced, moved or changed in place."""
    # torch counts no changes of tensors that were made in inference mode.
    version = 0 if weight.is_inference() else weight._version
    return id(weight), weight.data_ptr(), version


class RowwiseLinear(nn.Module):
    """A linear layer on `[rows, channels]` that multiplies each row separately.

    It computes in `dtype`. A quantised weight is stored as plain numbers.
    """

    def __init__(self, plain: nn.Linear, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        # The weight has the same values and shape as before, laid out for the product below.
        weight = dequantized(plain.weight.detach()).to(dtype)
        laid_out = weight.t().contiguous().t()
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias: torch.Tensor | None = plain.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `x W + b` for each row `x` of `rows` [n, channels]."""
        # MKL computes a single product in another way, with other last bits. On some CPUs it also
        # does so when there are fewer products than threads.
        count = max(len(rows), _thread_count(), 2)
        padded = torch.cat([rows, rows[:1].expand(count - len(rows), -1)])
        weights = self.weight.t().expand(count, -1, -1)
        products = torch.bmm(padded.unsqueeze(1), weights).squeeze(1)[: len(rows)]
        return products if self.bias is None else products + self.bias


# Otherwise a compiled network would be cut in two at every such layer.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's stub
def _thread_count() -> int:
    return torch.get_num_threads()


class WholeGroupNorm(nn.GroupNorm):
    """A group normalisation that adds up each group on one thread.

    Of rows in the order of channels last that are large, torch gives each thread a part, and adds
    up what the threads found: so the bits depend on how many there are, and on the other rows.
    """

    def __init__(self, plain: nn.GroupNorm) -> None:
        super().__init__(plain.num_groups, plain.num_channels, plain.eps, plain.affine)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `rows` [n, channels, height, width] with each group at mean 0 and variance 1."""
        return super().forward(rows.contiguous())


def prepare(
    network: nn.Module,
    device: torch.device | None = None,
    *,
    vector_layers: Collection[str] = (),
    pack: bool = True,
) -> None:
    """Replace modules of a network on a CPU in float32; elsewhere choose the best memory layout.

    `network` is changed in place. It computes on `device`, or else where its weights are.
    `vector_layers` are parts of the names of its linear layers that get one vector a row, such as
    those that read the timestep. Without `pack`, or without oneDNN, convolutions stay as they are.
    """
    device = device or next(network.parameters()).device
    # Quantised weights are bytes, which are computed with in the type of the others.
    dtype = next(weight.dtype for weight in network.parameters() if weight.is_floating_point())
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    if device.type != "cpu" or dtype != torch.float32:
        return
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    packs = pack and size <= _PACKED_BYTES and _can_pack()
    for name, module in list(network.named_modules()):
        if packs and _is_packable(module):
            _replace(network, name, PackedConv2d(module))
        elif isinstance(module, nn.Linear) and any(layer in name for layer in vector_layers):
            _replace(network, name, RowwiseLinear(module))
        elif type(module) is nn.GroupNorm:
            _replace(network, name, WholeGroupNorm(module))


def _can_pack() -> bool:
    """Return whether this build of torch has oneDNN and the two private functions used here."""
    calls = ("_reorder_convolution_weight", "_convolution_pointwise")
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and all(hasattr(torch.ops.mkldnn, call) for call in calls)


def _is_packable(module: Any) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
    )


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module is a linear layer or a convolution, prepared or not."""
    return isinstance(module, nn.Linear | nn.Conv2d | RowwiseLinear | PackedConv2d)


def with_weight(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
    """Return a copy of a layer, prepared or not, with another weight and everything else shared.

    The layer is a linear layer or a convolution, in the form that `prepare` leaves it in.
    """
    copied: Any = copy.copy(layer)
    copied._parameters = dict(layer._parameters)
    if isinstance(layer, RowwiseLinear):
        weight = weight.t().contiguous().t()
    copied.weight = nn.Parameter(weight, requires_grad=False)
    if isinstance(layer, PackedConv2d):
        copied.forget_packed()
    return copied  # type: ignore[no-any-return]  # what a copy of a module is
