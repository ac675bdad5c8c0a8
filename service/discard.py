"""The rest of a body that nobody reads, thrown away by the kernel: nothing of it is copied, parsed or kept."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress

SCRATCH = bytearray(1 << 20)  # how much at a time; nothing is written into it
AT_ONCE = 16  # times, before others have their turn
MOST = 128  # at the same time: each takes a descriptor, and anybody can have themselves refused


class Discard:
    """What comes on a connection from now on, until the client has closed its side or `stop`. The transport reads no more."""

    running = 0

    def __init__(self, transport: asyncio.Transport, ended: Callable[[], None]) -> None:
        """ended: called once, when the client has closed its side. Raises: OSError (the connection is gone; there are no descriptors, or
        others have those for this).
        """
        if Discard.running >= MOST:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        transport.pause_reading()
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._take)
        Discard.running += 1

    def _take(self) -> None:
        try:
            for _ in range(AT_ONCE):
                if not self._socket.recv_into(SCRATCH, len(SCRATCH), socket.MSG_TRUNC):
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.stop()
        self._ended()

    def stop(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            Discard.running -= 1


async def discard(transport: asyncio.Transport, seconds: float) -> None:
    """Discard for so long, or until the client has closed its side."""
    over = asyncio.Event()
    with suppress(OSError):
        discarding = Discard(transport, over.set)
        try:
            async with asyncio.timeout(seconds):
                await over.wait()
        except TimeoutError:
            pass
        finally:
            discarding.stop()
