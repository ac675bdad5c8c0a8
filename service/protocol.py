"""HTTP/1.1 on a connection: uvicorn's protocol on httptools, with a bound that httptools itself does not have."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection that goes on sending an address, headers or trailers: they are kept in memory until they end.

    Counts what has come since the last event that is not one of those. A read may take it past the bound by its own length.
    """

    _pending = 0

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending <= HEAD_BYTES or self.transport.is_closing():
            return
        if getattr(self.cycle, "response_complete", True):  # there is no cycle before the first request
            self.send_400_response("Request header too large.")
        else:  # trailers; or the next request, while this one is being answered
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()
