"""Prometheus metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.context import Shared

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(context: Shared) -> Response:
    """Text format; names as documented in `service.telemetry`."""
    return Response(generate_latest(context.telemetry.registry), media_type=CONTENT_TYPE_LATEST)
