"""What the routes of one app share, built by `create_app` and found through the request."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeVar, cast

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import Depends, Request

from models.errors import RegistryUnavailable
from models.manifest import Task
from service.admission import LARGE_BYTES, Admission, Ticket
from service.auth.key_ring import KeyRing
from service.errors import NotReady, Overloaded
from service.jobs.jobs import Jobs
from service.listing import Listing
from service.loader import NotLoaded
from service.pool import Live, Pool
from service.scheduler import Scheduler
from service.schemas import ModelList
from service.settings import Settings
from service.telemetry import Telemetry
from service.uploads import Uploads
from service.worker.device import Device

MOST_LOADING = 16  # requests that wait for others' models to be loaded before theirs
LOADING_S = 1.0
LINE_S = 5.0  # how long one waits for others' look-ups to come to an end
T = TypeVar("T")


@dataclass
class Lifecycle:
    """Where the service stands between its start and its end. Only the app and the command line move it."""

    phase: Literal["loading", "ready", "draining"] = "loading"


@dataclass(frozen=True)
class Context:
    settings: Settings
    telemetry: Telemetry
    lifecycle: Lifecycle
    device: Device
    pool: Pool
    listing: Listing
    admission: Admission
    scheduler: Scheduler
    uploads: Uploads
    jobs: Jobs
    keys: KeyRing
    readers: CapacityLimiter  # threads that parse and voxelize
    large_readers: CapacityLimiter  # the same for large files, which would keep small ones waiting
    tilers: CapacityLimiter  # threads that voxelize the tiles of large clouds
    lookups: CapacityLimiter  # threads that look models up, which large files being parsed must not delay
    first_lookups: CapacityLimiter  # the same for what was never found, and may be asked of a registry that hangs
    loads: CapacityLimiter  # threads that wait for a model to be loaded, which look-ups of others must not wait for
    encoders: CapacityLimiter  # threads that write answers, which need not wait for files being parsed either

    async def model(self, reference: str | None, task: Task | None, ticket: Ticket | None = None, *, asked: bool = True) -> Live:
        """The model of a reference (see Pool.get); one that has to be loaded is waited for beside the line."""
        live = self.pool.now(reference, task, asked=asked)
        if live is None:
            try:
                live = await self.look_up(partial(self.pool.get, reference, task, may_load=False, asked=asked), reference, task)
            except NotLoaded:
                if self.loads.statistics().tasks_waiting >= MOST_LOADING:  # else whoever comes next waits behind all of them
                    raise Overloaded("many models are waited for to be loaded; try again", retry_after_s=LOADING_S) from None
                if ticket is not None:
                    ticket.step_aside()
                live = await to_thread.run_sync(partial(self.pool.get, reference, task, asked=asked), limiter=self.loads)
        return live

    async def look_up(self, work: Callable[[], T], reference: str | None, task: Task | None = None) -> T:
        """What work on the registry says of a reference. One that was never found keeps none waiting that was.

        Raises: BadModelName; RegistryUnavailable (others' look-ups do not end); as `work`.
        """
        return await self._in_line(work, self.lookups if self.pool.knows(reference, task) else self.first_lookups)

    async def list_models(self) -> ModelList:
        """Raises: RegistryUnavailable."""
        return await self._in_line(self.listing.catalogue, self.lookups)

    async def _in_line(self, work: Callable[[], T], line: CapacityLimiter) -> T:
        """Work in a thread of this line, which is not waited for long. Raises: RegistryUnavailable; as `work`."""
        place = object()
        try:
            with fail_after(LINE_S):
                await line.acquire_on_behalf_of(place)
        except TimeoutError:
            raise RegistryUnavailable("the registry of models does not answer those who asked it before; try again") from None
        try:
            return await to_thread.run_sync(work, limiter=CapacityLimiter(1))  # its place is the one in line
        finally:
            line.release_on_behalf_of(place)

    def readers_of(self, size: int) -> CapacityLimiter:
        """The threads for a file of so many bytes."""
        return self.large_readers if size > LARGE_BYTES else self.readers


async def context_of(request: Request) -> Context:  # async: FastAPI would run it in a thread otherwise
    return cast(Context, request.app.state.context)


Shared = Annotated[Context, Depends(context_of)]


async def loaded(context: Shared) -> Context:
    """The context, once models can answer. While draining they still do: nobody who got in is turned away."""
    if context.lifecycle.phase == "loading":
        raise NotReady("the models are still being loaded")
    return context


Loaded = Annotated[Context, Depends(loaded)]
