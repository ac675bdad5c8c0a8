"""What the OpenAPI description says of keys, where there are some."""

from collections.abc import Mapping
from typing import cast

from fastapi import FastAPI

from service.auth.access import needed
from service.problems import documented

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a key of `fip keys new`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same"},
}


def describe_keys(app: FastAPI) -> None:
    """Every operation says which of its answers a key decides about."""
    description = app.openapi()
    description["components"]["securitySchemes"] = SCHEMES
    for path, operations in description["paths"].items():
        for method, operation in cast(Mapping[str, dict[str, object]], operations).items():
            wanted = needed(method.upper(), path)
            operation["security"] = [] if wanted is None else [{name: []} for name in SCHEMES]
            if wanted is not None:
                answers = cast(dict[str, object], operation["responses"])
                answers.update({str(status): said for status, said in documented(401, 403).items()})
