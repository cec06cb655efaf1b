"""A pipe between two processes in which no message can block for ever.

The connections of `multiprocessing` wait without a deadline to send to a process that does not
read, and for the rest of a message whose first bytes have arrived.
"""

from __future__ import annotations

import pickle
import socket
import struct
import weakref
from collections.abc import Callable
from typing import Any, Final, Self

_LENGTH: Final = struct.Struct("!Q")
_RECEIVED_AT_ONCE: Final = 2**20


class Pipe:
    """One end of a pipe that carries Python values; the other end may be in another process.

    A timeout is how many seconds may pass without a single byte moving, so a large message may
    take longer; None is for ever. After a timeout a message may be cut in half: use the pipe no
    more.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        # The code that ends a process closes no pipe: another thread may be waiting for it here.
        weakref.finalize(self, end.close)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends of a new pipe."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def send(self, value: object, timeout: float | None = None) -> None:
        """Send a value that can be pickled.

        Raises:
            TimeoutError: the other end does not read.
            OSError: the other end is closed.
        """
        message = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._socket.settimeout(timeout)
        for part in (_LENGTH.pack(len(message)), message):
            self._all_of(part, self._socket.send)

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next value that the other end sent.

        Raises:
            TimeoutError: nothing comes, or not all of it.
            EOFError: the other end is closed.
            OSError: the other end is closed, and did not read all that was sent to it.
        """
        self._socket.settimeout(timeout)
        (length,) = _LENGTH.unpack(self._received(_LENGTH.size))
        # Both ends are this program; the other is its own child.
        return pickle.loads(self._received(length))  # noqa: S301

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _received(self, length: int) -> bytearray:
        message = bytearray(length)
        self._all_of(message, self._receive_some)
        return message

    def _receive_some(self, rest: memoryview) -> int:
        count = self._socket.recv_into(rest[:_RECEIVED_AT_ONCE])
        if not count:
            raise EOFError
        return count

    def _all_of(self, data: bytes | bytearray, move: Callable[[memoryview], int]) -> None:
        """Have `move` send or fill `data`, as many bytes at a time as go."""
        rest = memoryview(data)
        while rest:
            rest = rest[move(rest) :]
