"""What the service and a worker say to each other over a socket: a head in JSON, then arrays as they lie in memory."""

import json
import math
import socket
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

LENGTH = struct.Struct("<I")
PIECE = 1 << 16

Array = npt.NDArray[np.generic]
Head = dict[str, object]


class PeerGone(Exception):
    """The other end of the socket was closed, or its process is no more."""


def send(channel: socket.socket, head: Mapping[str, object], arrays: Sequence[Array] = ()) -> None:
    """Raises: PeerGone, TimeoutError."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    text = json.dumps({**head, "arrays": [(array.dtype.str, array.shape) for array in arrays]}).encode()
    parts: list[bytes | memoryview] = [LENGTH.pack(len(text)) + text, *(array.reshape(-1).view(np.uint8).data for array in arrays)]
    try:
        if sum(len(part) for part in parts) <= 1 << 16:  # one system call
            channel.sendall(b"".join(parts))
            return
        for part in parts:
            channel.sendall(part)
    except TimeoutError:
        raise
    except OSError as error:
        raise PeerGone(str(error)) from error


def receive(channel: socket.socket) -> tuple[Head, list[Array]]:
    """Raises: PeerGone, TimeoutError, MemoryError (the message was taken in all the same: the next one can be received)."""
    [length] = LENGTH.unpack(_take(channel, LENGTH.size))
    head = json.loads(_take(channel, length))
    announced = [(np.dtype(dtype), shape) for dtype, shape in head.pop("arrays")]
    left = [dtype.itemsize * math.prod(shape) for dtype, shape in announced]
    arrays: list[Array] = []
    try:
        for dtype, shape in announced:
            data = bytearray(left[0])
            arrays.append(np.frombuffer(_fill(channel, data), dtype).reshape(shape))
            del left[0]
    except MemoryError:
        arrays.clear()
        for size in left:
            for start in range(0, size, PIECE):
                _take(channel, min(PIECE, size - start))
        raise
    return head, arrays


def _take(channel: socket.socket, size: int) -> bytearray:
    return _fill(channel, bytearray(size))


def _fill(channel: socket.socket, data: bytearray) -> bytearray:
    left = memoryview(data)
    while left:
        try:
            count = channel.recv_into(left)
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerGone(str(error)) from error
        if count == 0:
            raise PeerGone("the other end was closed")
        left = left[count:]
    return data
