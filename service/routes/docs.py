"""GET /docs: the description of the service, to read and to try out in a browser. Nothing of it comes from elsewhere."""

import base64
import hashlib

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.auth.headers import ASSETS

router = APIRouter(include_in_schema=False)

# What Swagger UI needs: its two files, its drawings (in the style sheet), and to ask the service.
POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{script}'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page of Swagger UI; of scripts within pages the browser runs only the one that starts it."""
    assets = request.scope.get("root_path", "") + ASSETS
    page = get_swagger_ui_html(
        openapi_url=request.scope.get("root_path", "") + str(request.app.openapi_url),
        title=request.app.title,
        swagger_js_url=assets + "swagger-ui-bundle.js",
        swagger_css_url=assets + "swagger-ui.css",
        swagger_favicon_url=assets + "favicon.png",
    )
    script = bytes(page.body).partition(b"<script>")[2].partition(b"</script>")[0]
    page.headers["Content-Security-Policy"] = POLICY.format(script=base64.b64encode(hashlib.sha256(script).digest()).decode())
    return page
