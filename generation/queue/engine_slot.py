"""The current engine of the engine thread: loading, replacing and closing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Generic

from ..errors import EngineFailed, GenerationError
from ..timing import Measured
from ..workers.protocol import EngineLike, I

log = logging.getLogger(__name__)

# Seconds before each attempt to load another engine. The memory of the lost engine may take a while
# to become free.
_RETRY_DELAYS: Final = (0, 2, 10)


class EngineSlot(Generic[I]):
    """Holds one engine, or none; the methods belong to the engine thread, except `stop`."""

    def __init__(self, make_engine: Callable[[], EngineLike[I]]) -> None:
        self._make_engine = make_engine
        self._stopping = threading.Event()
        self.engine: EngineLike[I] | None = None

    @property
    def is_stopping(self) -> bool:
        """Return whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Close the engine, and load no other; any thread may call this."""
        self._stopping.set()
        engine = self.engine
        if engine is not None:
            engine.close()

    def load(self) -> Measured | GenerationError:
        """Load an engine; return its measurements, or why there is no engine."""
        try:
            self.engine = self._make_engine()
            if self.is_stopping:
                return EngineFailed("The engine was stopped while it was loaded.")
            return self.engine.measured()
        except GenerationError as error:
            failure = error
        except Exception as error:
            log.exception("The engine could not be loaded")
            failure = EngineFailed.at_load(error)
        self.close()
        return failure

    def replace(self) -> Measured | GenerationError:
        """Close the engine and load another, with retries; return as `load` does."""
        self.close()
        loaded: Measured | GenerationError = EngineFailed("The engine was stopped.")
        for delay in _RETRY_DELAYS:
            if self._stopping.wait(delay):
                break
            loaded = self.load()
            if isinstance(loaded, Measured) or self.is_stopping:
                break
            log.error("There is no new engine: %s", loaded)
        return loaded

    def close(self) -> None:
        """Close the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
