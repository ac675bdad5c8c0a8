"""The rest of a body that nobody reads, thrown away by the kernel: nothing of it is copied, parsed or kept."""

import asyncio
import os
import socket

SCRATCH = bytearray(1 << 20)  # how much at a time; nothing is written into it
AT_ONCE = 16  # times, before others have their turn


async def discard(transport: asyncio.Transport, seconds: float) -> None:
    """Until the client has closed its side, or the time is over. The transport reads no more."""
    transport.pause_reading()
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    try:
        own = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    except OSError:  # it is gone already, or there are no descriptors
        return

    def take() -> None:
        try:
            for _ in range(AT_ONCE):
                if not own.recv_into(SCRATCH, len(SCRATCH), socket.MSG_TRUNC):
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        if not over.done():
            over.set_result(None)

    own.setblocking(False)
    loop.add_reader(own.fileno(), take)
    try:
        async with asyncio.timeout(seconds):
            await over
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(own.fileno())
        own.close()
