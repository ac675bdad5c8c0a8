"""The application: `create_app(settings)` wires the parts together and touches neither disk nor device until it is started."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import torch
from anyio import CapacityLimiter, create_task_group, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from models.errors import FipError
from service.admission import Admission
from service.auth.access import AccessMiddleware
from service.auth.describe import describe_keys
from service.auth.doors import Doors, listed_hosts
from service.auth.key_ring import KeyRing
from service.context import Context, Lifecycle
from service.doorman import Doorman
from service.jobs.jobs import Jobs
from service.jobs.runner import jobs_run
from service.listing import Listing
from service.memory import EVERY_S, give_back
from service.middleware import RequestMiddleware
from service.pool import Pool
from service.problems import describe_problems, on_bad_option, on_fip_error, on_http_error
from service.routes import aliases, classify, docs, health, jobs, metrics, models, open_inference, page, points, segment
from service.scheduler import Scheduler
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import Telemetry
from service.tracing import open_tracing
from service.upload_routes import UploadRoutes
from service.uploads import Uploads
from service.worker.device import Device

LOG = logging.getLogger("fip.service")
LOOKUPS, FIRST_LOOKUPS, LOADS = 4, 2, 4
LARGE_READERS = 1
UPLOADS = UploadRoutes("/v1/classify", "/v1/segment", "/v1/points", "/v1/jobs", *open_inference.UPLOADS)


async def _every(seconds: float, work: Callable[[], None]) -> None:
    """Again and again, in a thread, which may be in the middle of it when the service ends."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await to_thread.run_sync(work, abandon_on_cancel=True)
        except Exception:
            LOG.exception("failed in the background")


def create_app(settings: Settings) -> FastAPI:
    """An app whose lifespan loads the models, warms them up, serves and drains. Raises nothing; its start may (BadCheckpoint, ...)."""
    telemetry, tracing, ring = Telemetry(), open_tracing(), KeyRing(settings.keys)
    device = Device(settings, telemetry)
    scheduler = Scheduler(settings, telemetry, device)
    admission = Admission(settings, lambda: device.up, lambda: scheduler.seconds_left)
    for what, gauge in telemetry.admitted.items():
        gauge.set_function(partial(getattr, admission, what))
    pool = Pool(settings, telemetry, device)
    context = Context(
        settings=settings,
        telemetry=telemetry,
        lifecycle=Lifecycle(),
        device=device,
        pool=pool,
        listing=Listing(pool),
        admission=admission,
        scheduler=scheduler,
        uploads=Uploads(settings),
        jobs=Jobs(settings, telemetry),
        keys=ring,
        readers=CapacityLimiter(settings.readers),
        large_readers=CapacityLimiter(LARGE_READERS),
        tilers=CapacityLimiter(settings.readers),
        lookups=CapacityLimiter(LOOKUPS),
        first_lookups=CapacityLimiter(FIRST_LOOKUPS),
        loads=CapacityLimiter(LOADS),
        encoders=CapacityLimiter(settings.readers),
    )

    shadow = Shadow(context)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        torch.set_num_threads(1)  # nets run in the worker; what is computed here is small, or waits for memory
        try:
            await to_thread.run_sync(ring.load)
            await to_thread.run_sync(context.jobs.rows.open)
            await to_thread.run_sync(context.pool.load)
            scheduler.begin()
            context.lifecycle.phase = "ready"
            async with jobs_run(context), create_task_group() as background:
                background.start_soon(_every, EVERY_S, give_back)
                background.start_soon(ring.follow)
                if settings.lookup_seconds:
                    background.start_soon(_every, settings.lookup_seconds, pool.follow)
                yield
                context.lifecycle.phase = "draining"
                background.cancel_scope.cancel()
        finally:
            await shadow.close()
            await context.jobs.close()
            await context.scheduler.close()
            await to_thread.run_sync(device.close)
            await to_thread.run_sync(tracing.close)

    app = FastAPIOffline(  # FastAPI whose /docs needs no other server
        docs_url=None,  # service.routes.docs has the page itself
        redoc_url=None,
        redirect_slashes=False,  # to wherever the caller's Host says
        title="fip-server",
        summary="Point clouds in, classes of objects and of points out",
        version=version("fip-server"),
        lifespan=lifespan,
    )
    app.state.context, app.state.shadow = context, shadow
    app.state.doorman = Doorman(admission, telemetry, tracing, UPLOADS)
    app.add_middleware(
        AccessMiddleware, ring=ring, doors=Doors(settings), strangers=settings.allow_anonymous or bool(listed_hosts(settings.hosts))
    )
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
    for routes in (page, classify, segment, points, jobs, models, aliases, open_inference, health, metrics, docs):
        app.include_router(routes.router)
    describe_problems(app)
    open_inference.describe_inference(app)
    if ring.required:
        describe_keys(app)
    return app
