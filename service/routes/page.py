"""GET /: the page. It is built beforehand (make ui), asks nothing but this service, and runs no script but its own."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.auth.headers import PAGE

router = APIRouter(include_in_schema=False)

BUILT = Path(__file__).resolve().parents[1] / "ui" / "built"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
FILES = {path.name: path for path in BUILT.iterdir() if path.is_file()}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _file(path: Path) -> FileResponse:
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=media_type, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})


@router.get("/")
async def page() -> FileResponse:
    return _file(FILES["index.html"])


def _serve(path: Path) -> None:
    router.get(f"{PAGE}{path.name}", name=path.name)(lambda: _file(path))


for each in FILES.values():
    _serve(each)
