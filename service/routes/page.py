"""GET /: the page. Its script is built beforehand (make ui); it asks nothing but this service, and runs no script but its own."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.auth.headers import PAGE

router = APIRouter(include_in_schema=False)

UI = Path(__file__).resolve().parents[1] / "ui"
BUILT, STATIC = UI / "built", UI / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
FILES = {path.name: path for folder in (BUILT, STATIC) for path in folder.iterdir() if path.is_file()}
METHODS = ["GET", "HEAD"]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _file(path: Path) -> FileResponse:
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=media_type, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})


@router.api_route("/", methods=METHODS)
async def page() -> FileResponse:
    return _file(FILES["index.html"])


def _serve(path: Path) -> None:
    router.api_route(f"{PAGE}{path.name}", methods=METHODS, name=path.name)(lambda: _file(path))


for each in FILES.values():
    _serve(each)
