"""The current engine of the engine thread, and the models in its memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, Generic

from ..errors import EngineFailed, EngineLost, GenerationError, ModelError
from ..timing import Measured
from ..workers.protocol import EngineLike, I, ModelLoad
from .supervisor import JOB_LOSSES

log = logging.getLogger(__name__)

# Seconds before each attempt to load another engine. The memory of the lost engine may take a while
# to become free.
_RETRY_DELAYS: Final = (0, 2, 10)
# A model that ended the engine twice while it was loaded is not loaded again for a while: each time
# all pictures on their way start again.
_REFUSED_SECONDS: Final = 600.0


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


class ModelLoading:
    """Loads models on the engine; it belongs to the engine thread.

    An engine begins with `default` in memory; None is the only model of its engine. `on_result` is
    called with the name of a model and the result of loading it.
    """

    def __init__(self, default: str | None, on_result: Callable[[str, ModelLoad], None]) -> None:
        self._default = default
        self._on_result = on_result
        self._is_introduced = False
        self._loaded: Collection[str | None] = frozenset()
        self._losses: Counter[str] = Counter()
        self._lost_at = 0.0

    def engine_replaced(self) -> None:
        """Note that there is a new engine."""
        self._loaded = frozenset({self._default})
        self._is_introduced = False

    def introduce(self, engine: EngineLike[Any]) -> None:
        """Find out which models fit in beside the default model, once for each engine.

        Raises:
            EngineLost: the engine ended.
        """
        if self._default is not None and not self._is_introduced:
            self._is_introduced = True
            self.load(engine, self._default)

    def is_loaded(self, model: str | None) -> bool:
        """Return whether a model is in memory."""
        return model is None or model in self._loaded

    def load(self, engine: EngineLike[Any], model: str) -> GenerationError | None:
        """Load a model; return the error if it cannot be loaded.

        Raises:
            EngineLost: the engine ended while it loaded the model.
        """
        if self._is_refused(model):
            return ModelError(
                f"The engine stopped twice while it loaded the model {model}; use another model, "
                "and ask the operator to look at the log."
            )
        try:
            result = engine.load(model)
        except EngineLost:
            self._losses[model] += 1
            self._lost_at = time.monotonic()
            raise
        except Exception as error:
            log.exception("The model %s could not be loaded", model)
            failure = EngineFailed.at_load(error)
            # Other models may have left the memory for it.
            result = ModelLoad(measured=None, failure=failure, loaded=frozenset())
        else:
            del self._losses[model]
        self._loaded = result.loaded
        self._on_result(model, result)
        return result.failure

    def _is_refused(self, model: str) -> bool:
        if self._losses[model] < JOB_LOSSES:
            return False
        if time.monotonic() > self._lost_at + _REFUSED_SECONDS:
            del self._losses[model]
            return False
        return True
