"""Whether the process runs, and whether it should get requests."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from service.context import Context, Shared
from service.schemas import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.head("/live", include_in_schema=False)
@router.get("/live")
async def live() -> Health:
    """200 as long as the process answers at all."""
    return Health(status="alive")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: {"model": Health, "description": "Loading, draining, or without a worker for the device"}})
async def ready(context: Shared, response: Response) -> Health:
    """200 once the default models are loaded and warm; 503 before that, while a worker that died is replaced, and from the moment the
    service is told to stop.
    """
    status = phase_of(context)
    if status != "ready":
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status=status)


def phase_of(context: Context) -> str:
    """`ready`, or why it is not."""
    if context.lifecycle.phase == "ready" and not context.device.up:
        return "recovering"
    return context.lifecycle.phase
