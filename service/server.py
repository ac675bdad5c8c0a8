"""uvicorn around the app: the line that says where it is, logs as JSON lines, and a quiet end on SIGTERM."""

import logging
import signal
import socket
import sys
from types import FrameType

import torch
import uvicorn

from models.errors import BadOption
from service.app import create_app
from service.context import Context
from service.protocol import BoundedHttp
from service.settings import Settings
from service.telemetry import JsonLines

EXIT_STOPPED, EXIT_FAILED = 0, 1


class Server(uvicorn.Server):
    """Says when it is ready, and stops being ready as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            models = self._context.pool.load()
            [engine, *_] = [model.predictor.engine.name for model in models.values()]
            print(f"fip serve: http://{address} answers with {' and '.join(models)}, convolutions by {engine}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._context.lifecycle.phase = "draining"
        super().handle_exit(sig, frame)


def run(settings: Settings) -> int:
    """Serve until told to stop; the exit status.

    Raises: BadOption (nothing can listen there), ModelError (no model to serve, or a damaged one).
    """
    _log_as_json_lines()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # the middleware writes one line a request
        timeout_graceful_shutdown=settings.drain_seconds,
        http=BoundedHttp,
        ws="none",
    )
    _check_address(settings.host, settings.port)
    torch.set_num_threads(settings.threads)  # before engines are timed: with more threads than there are free cores that takes a minute
    app.state.context.pool.load()  # here, not in the lifespan, so that a damaged model ends in one line and an exit status
    server = Server(config, app.state.context)
    # uvicorn raises the signal again after draining; by then it has been obeyed
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    server.run()
    return EXIT_STOPPED if server.started else EXIT_FAILED


def _check_address(host: str, port: int) -> None:
    """Raises: BadOption when nothing can listen there. uvicorn would find out only after loading, and log it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise BadOption(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port (make serve PORT=…)", where="port"
        ) from error


def _log_as_json_lines() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
