"""uvicorn around the app: the line that says where it is, logs as JSON lines, and a quiet end on SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Literal, cast

import uvicorn
from fastapi import FastAPI

from models.cache import cache_dir
from models.errors import BadOption
from service.app import create_app
from service.auth.doors import check_reach
from service.connections import Connections, Listener, listen, room_for
from service.context import Context
from service.doorman import Doorman
from service.logs import configure_logs
from service.memory import one_heap
from service.protocol import BoundedHttp
from service.settings import Settings, mistyped

LOG = logging.getLogger("fip.service")
EXIT_STOPPED, EXIT_FAILED = 0, 1
SWITCH_S = 0.0005  # how long a thread that computes keeps the event loop waiting, at each of its system calls; Python's own 5 ms add up
LAST_S = 1  # for requests to end after their connections


class Server(uvicorn.Server):
    """Says when it is ready. Told to stop, it is not ready at once, goes on for `lame_duck_seconds`, then answers what it has."""

    def __init__(self, app: FastAPI, connections: Connections) -> None:
        super().__init__(configure(app, connections))
        self._context: Context = app.state.context
        self._doorman: Doorman = app.state.doorman
        self._connections = connections
        self._leaves_at = 0.0
        self._late: list[asyncio.Task[object]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            gc.collect()
            gc.freeze()  # what there is now stays: each full collection would stop everybody for a tenth of a second to look at it
            gc.collect()  # of nothing: the next one comes when there is a quarter more than now, not than before
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            models = self._context.pool.load()
            [engine, *_] = models.values()
            print(f"fip serve: http://{address} answers with {' and '.join(models)}, convolutions by {engine}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._context.lifecycle.phase = "draining"
        self._connections.draining = True
        if self.should_exit:  # told twice
            self.force_exit = True
            _leave_after(LAST_S)
        else:
            self._leaves_at = time.monotonic() + self._context.settings.lame_duck_seconds
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) and (self.force_exit or time.monotonic() >= self._leaves_at)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has arrived, for at most `drain_seconds`; what is left then is cut off."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._context.settings.drain_seconds, self._cut)
        self._context.jobs.stop()  # who listens to one would be waited for
        await self._take_backlog([each for each in sockets or () if isinstance(each, Listener)])
        await super().shutdown(sockets)
        self._cut()

    async def _take_backlog(self, listeners: list[Listener]) -> None:
        """Accept who is connected already: the end of the listening socket would reset them. On return it should end at once."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            loop.remove_reader(listener)
        for _ in range(3):  # those that asyncio has accepted become connections; afterwards it could not attach them to its server
            await asyncio.sleep(0)
        for listener in listeners:
            for accepted in listener.waiting():
                self._late.append(loop.create_task(loop.connect_accepted_socket(self._protocol, accepted)))

    def _protocol(self) -> BoundedHttp:
        return BoundedHttp(self._connections, self._doorman, self.config, self.server_state, self.lifespan.state)

    def _cut(self) -> None:
        """End connections and requests that have not ended by themselves."""
        left = self._connections.cut()
        if left:
            LOG.warning("connections cut", extra={"fields": {"connections": left, "requests": len(self.server_state.tasks)}})
        for task in self.server_state.tasks:
            task.cancel()


def configure(app: FastAPI, connections: Connections, lifespan: Literal["on", "off"] = "on") -> uvicorn.Config:
    """How uvicorn serves the app: every setting that concerns connections is here."""
    settings = connections.settings
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # the middleware writes one line a request
        timeout_keep_alive=cast(int, settings.keep_alive_seconds),  # any number does
        timeout_graceful_shutdown=settings.drain_seconds + LAST_S,
        http=cast(type[asyncio.Protocol], partial(BoundedHttp, connections, app.state.doorman)),
        loop="asyncio",
        lifespan=lifespan,
        ws="none",
        server_header=False,
    )


def run(settings: Settings) -> int:
    """Serve until told to stop; the exit status.

    Raises: BadOption (nothing can listen there, or anybody could ask), BadKeyFile, ModelError (no model to serve, or a damaged one).
    """
    configure_logs()
    if "MALLOC_ARENA_MAX" not in os.environ:  # somebody knows better
        one_heap()
    sys.setswitchinterval(SWITCH_S)
    for variable, setting in mistyped(os.environ):
        LOG.warning("%s is no setting; did you mean %s?", variable, setting)
    with ExitStack() as held:
        return _serve(_with_jobs(settings, held))


def _serve(settings: Settings) -> int:
    app = create_app(settings)
    context: Context = app.state.context
    connections = Connections(settings, context.telemetry.registry)
    connections.most = room_for(settings.max_connections)
    listeners = _listen(settings.host, settings.port)
    check_reach((str(each.getsockname()[0]) for each in listeners), settings)
    context.keys.load()  # here, not only in the lifespan, so that what is damaged ends in one line and an exit status
    context.jobs.rows.open()
    context.pool.load()
    server = Server(app, connections)
    # uvicorn raises the signal again after draining; by then it has been obeyed
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    server.run(sockets=[*listeners])
    if context.jobs.left_behind and server.started:
        _leave_after(LAST_S, EXIT_STOPPED)
    return EXIT_STOPPED if server.started else EXIT_FAILED


def _with_jobs(settings: Settings, held: ExitStack) -> Settings:
    """Where jobs are kept, if nothing was said: with the port; on a free port, for as long as `held`."""
    if settings.jobs_dir is not None:
        return settings
    try:
        if settings.port:
            folder = cache_dir() / "jobs" / str(settings.port)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            writable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        else:
            folder, writable = Path(held.enter_context(TemporaryDirectory(prefix="fip-jobs-", ignore_cleanup_errors=True))), True
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        writable = False
    if not writable:
        LOG.warning("no jobs: there is no folder to keep them in; set FIP_JOBS_DIR")
        return settings
    return settings.model_copy(update={"jobs_dir": folder})


def _listen(host: str, port: int) -> list[Listener]:
    """Raises: BadOption when nothing can listen there. uvicorn would find out only after loading, and log it."""
    try:
        return listen(host, port)
    except OSError as error:
        raise BadOption(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port (make serve PORT=…)", where="port"
        ) from error


def _leave_after(seconds: float, status: int = EXIT_FAILED) -> None:
    """End the process then, if it has not ended by itself: a thread in the middle of a file cannot be stopped."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()
