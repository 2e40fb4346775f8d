"""What the stand-in servers of the tests share: threads, connections that stay open, and no log."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1  # keep connections open; send an answer in one piece
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256  # many connect at once; the default queue holds five


@contextmanager
def serving(handler: type[QuietHandler]) -> Iterator[str]:
    """Serve on a free port and yield the address, without a path."""
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
