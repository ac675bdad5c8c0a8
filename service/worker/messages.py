"""What the service and a worker say to each other over a socket: a head in JSON, then arrays as they lie in memory."""

import json
import math
import socket
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

LENGTH = struct.Struct("<I")

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
    """Raises: PeerGone, TimeoutError."""
    [length] = LENGTH.unpack(_take(channel, LENGTH.size))
    head = json.loads(_take(channel, length))
    arrays = []
    for dtype, shape in head.pop("arrays"):
        data = _take(channel, np.dtype(dtype).itemsize * math.prod(shape))
        arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return head, arrays


def _take(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
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
