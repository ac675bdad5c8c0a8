"""The one file of a multipart form, taken apart as it streams by."""

from collections.abc import Callable
from pathlib import PurePosixPath

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.problems import BadMultipart


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
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            raise BadMultipart("the form may hold one file and nothing else; options go into the query", where=field[:80] or None)
        self._files += 1
        if self._files > 1:
            raise BadMultipart("the form holds more than one file", where=field[:80] or None)
        self.name = file_name(options[b"filename"].decode("utf-8", "replace"))
        self.content_type = self._headers.get(b"content-type", b"").decode("latin-1")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._write(data[start:end])

    def _end(self) -> None:
        self._ended = True
