"""A pipe between two processes on which no message can block for ever.

The connections of `multiprocessing` have no timeout: they block while the other process does not
read, and while the rest of a message does not arrive.
"""

from __future__ import annotations

import socket
import struct
import weakref
from collections.abc import Callable
from typing import Final, Self

_LENGTH: Final = struct.Struct("!Q")
_CHUNK_BYTES: Final = 2**20


class Pipe:
    """One end of a pipe that carries messages of bytes; the other end may be in another process.

    A timeout is how many seconds may pass without a byte moving, so a large message may take
    longer. None means no timeout. After a timeout the pipe is useless, since a message may be cut
    in half.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        # Ending the other process closes no pipe, since another thread may be waiting here.
        weakref.finalize(self, end.close)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends of a new pipe."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def send(self, message: bytes, timeout: float | None = None) -> None:
        """Send a message.

        Raises:
            TimeoutError: the other end does not read.
            OSError: the other end is closed.
        """
        self._socket.settimeout(timeout)
        for part in (_LENGTH.pack(len(message)), message):
            _move_all(memoryview(part), self._socket.send)

    def receive(self, timeout: float | None = None) -> bytearray:
        """Return the next message.

        Raises:
            TimeoutError: no message comes, or only a part of it.
            EOFError: the other end is closed.
            OSError: the other end is closed, and did not read all messages.
        """
        self._socket.settimeout(timeout)
        (length,) = _LENGTH.unpack(self._receive_bytes(_LENGTH.size))
        return self._receive_bytes(length)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _receive_bytes(self, length: int) -> bytearray:
        data = bytearray(length)
        _move_all(memoryview(data), self._receive_chunk)
        return data

    def _receive_chunk(self, target: memoryview) -> int:
        count = self._socket.recv_into(target[:_CHUNK_BYTES])
        if not count:
            raise EOFError
        return count


def _move_all(data: memoryview, move: Callable[[memoryview], int]) -> None:
    """Call `move`, which sends or fills a part of `data`, until all of it is moved."""
    while data:
        data = data[move(data) :]
