"""Headers of every answer, by which browsers keep others from making use of it. There are none for CORS: no other site may read any."""

ASSETS = "/static-offline-docs/"
PAGE = "/ui/"  # what the page is made of
NOTHING = "default-src 'none'; frame-ancestors 'none'"
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", NOTHING.encode()),
)
ANSWER = (*SECURITY, (b"cache-control", b"no-store"))


def secure(headers: list[tuple[bytes, bytes]], path: str) -> None:
    """Add what an answer has not set itself. What only the documentation is made of may be kept by browsers."""
    given = [name for name, _ in headers]
    headers.extend([each for each in (SECURITY if path.startswith(ASSETS) else ANSWER) if each[0] not in given])
