"""Which models answer, and what each expects and knows."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path

from models.registry.reference import REFERENCE
from service.context import Loaded
from service.problems import documented
from service.schemas import ModelDetails, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=documented(503))
async def list_models(context: Loaded) -> ModelList:
    """Every version of every model that can be asked for, and which are damaged."""
    return await context.list_models()


@router.get("/{name}", responses=documented(404, 422, 500, 503))
async def show_model(name: Annotated[str, Path(json_schema_extra={"pattern": REFERENCE})], context: Loaded) -> ModelDetails:
    """One model with its card and where it comes from. NAME is its champion, else its newest version; also NAME:VERSION, NAME@ALIAS."""
    return await context.look_up(partial(context.listing.describe, name), name)


@router.get("/models:/{rest:path}", include_in_schema=False)
async def show_mlflow_model(rest: str, context: Loaded) -> ModelDetails:
    """The same for MLflow's way of writing a reference."""
    return await show_model(f"models:/{rest}", context)
