"""Keep the progress bars and warnings of the libraries off the terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

_quietly = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and warnings off the terminal; errors are still raised.

    The settings belong to the whole process, so only one block runs at a time.
    """
    with _quietly:
        levels = [(lib, lib.get_verbosity()) for lib in (diffusers_logging, transformers_logging)]
        bars = diffusers_logging.is_progress_bar_enabled()
        hook = transformers_logging.set_tqdm_hook(
            lambda factory, args, kwargs: factory(*args, **{**kwargs, "disable": True})
        )
        diffusers_logging.disable_progress_bar()
        for library, _ in levels:
            library.set_verbosity(library.CRITICAL)
        try:
            yield
        finally:
            for library, level in levels:
                library.set_verbosity(level)
            if bars:
                diffusers_logging.enable_progress_bar()
            transformers_logging.set_tqdm_hook(hook)
