"""Which models answer, and what each expects and knows."""

from functools import partial

from anyio import to_thread
from fastapi import APIRouter

from service.context import Loaded
from service.problems import documented
from service.schemas import ModelInfo, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=documented(503))
async def list_models(context: Loaded) -> ModelList:
    """Every version of every model that can be asked for."""
    return ModelList(models=await to_thread.run_sync(context.pool.catalogue, limiter=context.lookups))


@router.get("/{name}", responses=documented(404, 422, 500, 503))
async def show_model(name: str, context: Loaded) -> ModelInfo:
    """One model; NAME stands for its champion, else its newest version, NAME:VERSION and NAME@ALIAS for others."""
    return await to_thread.run_sync(partial(context.pool.describe, name), limiter=context.lookups)
