"""What a client says beforehand of the size of its body."""

from collections.abc import Mapping

DIGITS = 18  # of a length that can be meant; int() of thousands of them would take its time
WORTH_READING = 64 << 10  # rather than closing the connection


def announced_bytes(headers: Mapping[str, str]) -> int | None:
    """Content-Length, None where there is none (a chunked body). headers: names in lower case, or of any case."""
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return None
    return int(length) if len(length) <= DIGITS else 10**DIGITS


def much_to_come(headers: Mapping[str, str]) -> bool:
    """Whether the body is, or may be, so large that it costs less to close the connection than to read it for nothing."""
    length = announced_bytes(headers)
    return length is None or length > WORTH_READING
