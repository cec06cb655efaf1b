"""Sends discord.py in this process to the rig; found because this folder is on PYTHONPATH.

Nothing is loaded for it: the addresses are changed as the modules that hold them are loaded.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

RIG_URL = os.environ["RIG_URL"]


class _Redirecting(Loader):
    """Runs a module of discord.py, then changes the address that it holds."""

    def __init__(self, wrapped: Loader) -> None:
        self._wrapped = wrapped

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._wrapped.exec_module(module)
        if module.__name__ == "discord.http":
            module.Route.BASE = f"{RIG_URL}/api/v10"
        elif module.__name__ == "bot.requests.downloading":
            # Its attachments come from the rig as well.
            module.ORIGINS = frozenset({RIG_URL})  # type: ignore[attr-defined]
        else:
            gateway: Any = module.DiscordWebSocket
            address = f"{RIG_URL.replace('http', 'ws', 1)}/gateway"
            gateway.DEFAULT_GATEWAY = type(gateway.DEFAULT_GATEWAY)(address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class _DiscordFinder(MetaPathFinder):
    """Finds the modules that hold an address of Discord, and nothing else."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in ("discord.http", "discord.gateway", "bot.requests.downloading"):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Redirecting(spec.loader)
        return spec


def _run_hidden() -> None:
    """Run the sitecustomize that this one hides, if the Python has one."""
    here = Path(__file__).parent
    elsewhere = [folder for folder in sys.path if Path(folder).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


sys.meta_path.insert(0, _DiscordFinder())
_run_hidden()
