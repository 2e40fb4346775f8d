"""A reverse proxy for tests: it serves an app below a path and passes answers on as they arrive."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests import local_server
from tests.local_server import QuietHandler

OWN = ("connection", "keep-alive", "transfer-encoding")  # headers of one connection, not of the request


@contextmanager
def serving(app: str, path: str) -> Iterator[str]:
    """Serve the app at the address `app` below `path`, and yield the new address."""

    class Handler(QuietHandler):
        wbufsize = 0

        def forward(self) -> None:
            self.close_connection = True
            if not self.path.startswith(path):
                return self.send_error(404)
            upstream = HTTPConnection(urlsplit(app).netloc, timeout=120)
            with suppress(ConnectionError):  # the visitor has left
                self.answer(upstream)
            upstream.close()

        def answer(self, upstream: HTTPConnection) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
            headers |= {"X-Forwarded-For": self.client_address[0], "X-Forwarded-Proto": "http"}
            upstream.request(self.command, self.path.removeprefix(path) or "/", body or None, headers)
            reply = upstream.getresponse()
            self.send_response_only(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in OWN:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := reply.read1(65536):
                self.wfile.write(part)

        do_GET = do_HEAD = do_POST = do_OPTIONS = forward

    with local_server.serving(Handler) as address:
        yield address + path
