"""Which version answers under an alias: moved here, it answers when the request is answered."""

from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query

from models.manifest import MODEL_NAME
from service.context import Context, Loaded
from service.problems import documented
from service.schemas import AliasMoved

router = APIRouter(prefix="/v1/models/{name}/aliases/{alias}", tags=["models"])

Name = Annotated[str, Path(json_schema_extra={"pattern": MODEL_NAME})]
Version = Annotated[int, Query(ge=1, le=999_999_999, description="version to point it at")]
Expected = Annotated[
    int | None, Query(ge=0, le=999_999_999, description="only if it points at this version now; 0: only if it points at nothing")
]
STATUSES = (403, 404, 409, 422, 500, 503, 507)


@router.put("", responses=documented(*STATUSES))
async def point_alias(name: Name, alias: Name, context: Loaded, version: Version, expected: Expected = None) -> AliasMoved:
    """Have a version answer under an alias. It is verified, loaded and run before the alias moves: one that fails changes nothing."""
    return await _move(context, name, alias, version, expected)


@router.post("/rollback", responses=documented(*STATUSES))
async def roll_alias_back(name: Name, alias: Name, context: Loaded) -> AliasMoved:
    """Have the version answer that the alias pointed at before; again, and it goes one further back."""
    return await _move(context, name, alias, None, None)


async def _move(context: Context, name: str, alias: str, to: int | None, expected: int | None) -> AliasMoved:
    move = partial(context.pool.move, name, alias, to, expected)
    now, before = await to_thread.run_sync(move, limiter=context.loads)
    return AliasMoved(name=name, alias=alias, version=str(now), before=None if before is None else str(before))
