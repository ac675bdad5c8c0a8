"""The one file of a multipart form, taken apart as it streams by."""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadMultipart

# filename*=UTF-8''ch%C3%A4ir.ply: forms should not have it (RFC 7578), some clients send nothing else, and the parser passes over it
EXTENDED_NAME = re.compile(rb""";\s*filename\*\s*=\s*"?(?P<charset>[\w-]*)'[^']*'(?P<name>[^;"\s]*)""", re.IGNORECASE)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart content type, None for any other content type. Raises: BadMultipart (no boundary)."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadMultipart("multipart/form-data without a boundary", where="Content-Type")
    return boundary


def file_name(given: str) -> str:
    """The last part of a file name, without the folders a caller may have put before it. It never becomes a path here."""
    return PurePosixPath(given.replace("\\", "/")).name[:255]


def _stated_name(disposition: bytes, options: Mapping[bytes, bytes]) -> str | None:
    """The file name of a part's Content-Disposition; None if the part is no file."""
    if b"filename" in options:
        return options[b"filename"].decode("utf-8", "replace")
    extended = EXTENDED_NAME.search(disposition)
    if extended is None:
        return None
    charset = "latin-1" if extended["charset"].lower() == b"iso-8859-1" else "utf-8"
    return unquote_to_bytes(extended["name"]).decode(charset, "replace")


class MultipartFile:
    """Hands the bytes of the form's one file to `write`. Options belong in the query, so a plain field is refused too."""

    def __init__(self, boundary: bytes, write: Callable[[bytes], None]) -> None:
        self.name, self.content_type = "", ""
        self._write = write
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._files = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._part_is_named,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BadMultipart(str(error), where="Content-Type") from error

    def feed(self, chunk: bytes) -> None:
        """Raises: BadMultipart."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadMultipart(str(error), where="body") from error

    def finish(self) -> None:
        """Raises: BadMultipart when the form is cut short or holds no file."""
        if not self._ended:
            raise BadMultipart("the form ends before its last boundary", where="body")
        if self._files == 0:
            raise BadMultipart("the form holds no file", where="body")

    def _part_begins(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[bytes(self._field.lower())] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _part_is_named(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")
        name = _stated_name(disposition, options)
        if name is None:
            raise BadMultipart("the form may hold one file and nothing else; options go into the query", where=field[:80] or None)
        self._files += 1
        if self._files > 1:
            raise BadMultipart("the form holds more than one file", where=field[:80] or None)
        self.name = file_name(name)
        self.content_type = self._headers.get(b"content-type", b"").decode("latin-1")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._write(data[start:end])

    def _end(self) -> None:
        self._ended = True
