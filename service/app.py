"""The application: `create_app(settings)` wires the parts together and touches neither disk nor device until it is started."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import torch
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from models.errors import FipError
from service.admission import Admission
from service.context import Context, Lifecycle
from service.doorman import Doorman
from service.middleware import RequestMiddleware
from service.pool import Pool
from service.problems import describe_problems, on_bad_option, on_fip_error, on_http_error
from service.recent import Recent
from service.routes import classify, health, metrics, models, open_inference, segment
from service.scheduler import Scheduler
from service.settings import Settings
from service.telemetry import Telemetry
from service.tracing import open_tracing
from service.upload_routes import UploadRoutes
from service.uploads import Uploads
from service.worker.device import Device

LOOKUPS, LOADS = 4, 4
LARGE_READERS = 1
UPLOADS = UploadRoutes("/v1/classify", "/v1/segment", *open_inference.UPLOADS)


def create_app(settings: Settings) -> FastAPI:
    """An app whose lifespan loads the models, warms them up, serves and drains. Raises nothing; its start may (BadCheckpoint, ...)."""
    telemetry, tracing = Telemetry(), open_tracing()
    device = Device(settings, telemetry)
    scheduler = Scheduler(settings, telemetry, device)
    admission = Admission(settings, lambda: device.up, lambda: scheduler.seconds_left)
    for what, gauge in telemetry.admitted.items():
        gauge.set_function(partial(getattr, admission, what))
    context = Context(
        settings=settings,
        telemetry=telemetry,
        lifecycle=Lifecycle(),
        device=device,
        pool=Pool(settings, telemetry, device),
        recent=Recent(settings.lookup_seconds),
        admission=admission,
        scheduler=scheduler,
        uploads=Uploads(settings),
        readers=CapacityLimiter(settings.readers),
        large_readers=CapacityLimiter(LARGE_READERS),
        tilers=CapacityLimiter(settings.readers),
        lookups=CapacityLimiter(LOOKUPS),
        loads=CapacityLimiter(LOADS),
        encoders=CapacityLimiter(settings.readers),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        torch.set_num_threads(1)  # nets run in the worker; what is computed here is small, or waits for memory
        try:
            await to_thread.run_sync(context.pool.load)
            context.lifecycle.phase = "ready"
            yield
            context.lifecycle.phase = "draining"
        finally:
            await context.scheduler.close()
            await to_thread.run_sync(device.close)
            await to_thread.run_sync(tracing.close)

    app = FastAPIOffline(  # FastAPI whose /docs needs no other server
        redoc_url=None,
        title="fip-server",
        summary="Point clouds in, classes of objects and of points out",
        version=version("fip-server"),
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.doorman = Doorman(admission, telemetry, tracing, UPLOADS)
    app.add_middleware(
        RequestMiddleware,
        telemetry=telemetry,
        tracing=tracing,
        longest_s=settings.request_seconds,
        uploads=UPLOADS,
    )
    app.add_exception_handler(FipError, on_fip_error)
    app.add_exception_handler(RequestValidationError, on_bad_option)
    app.add_exception_handler(HTTPException, on_http_error)
    for routes in (classify, segment, models, open_inference, health, metrics):
        app.include_router(routes.router)
    describe_problems(app)
    open_inference.describe_inference(app)
    return app
