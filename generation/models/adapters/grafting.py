"""A network with some other layers, which shares all the rest with the original."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn


def with_layers(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Return a network that has `layers` in place of those with these names.

    Only the modules on the way to these layers are copied, and no tensor is. The original stays as
    it is, and both can be used.
    """
    inner: dict[str, dict[str, nn.Module]] = defaultdict(dict)
    own: dict[str, nn.Module | None] = {}
    for name, layer in layers.items():
        first, _, rest = name.partition(".")
        if rest:
            inner[first][rest] = layer
        else:
            own[first] = layer
    children: dict[str, Any] = dict(network._modules)
    for name, below in inner.items():
        children[name] = with_layers(network.get_submodule(name), below)
    grafted = copy.copy(network)
    grafted._modules = {**children, **own}
    grafted._parameters = dict(network._parameters)
    grafted._buffers = dict(network._buffers)
    return grafted
