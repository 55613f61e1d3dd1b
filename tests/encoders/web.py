"""A web server on this machine that serves files as the web does, faults included."""

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and how badly.

    Attributes:
        content: The file.
        etag: Its version; empty for none.
        date: Its date; empty for none.
        ranges: Whether parts can be had.
        drops: After how many bytes each of the first answers breaks off.
        statuses: What the first answers say in place of 200.
        announce: The length that is announced, if not the true one; -1 for none.
        kind: Content-Type.
        moved: Where it says that the file has gone.
    """

    content: bytes = b""
    etag: str = '"1"'
    date: str = ""
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    announce: int | None = None
    kind: str = "application/octet-stream"
    moved: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    sent: int = 0


@contextmanager
def serving(site: Site):
    """Serve it; its url is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self, site)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler, site):
    wanted = handler.headers.get("Range") or ""
    site.asked.append(wanted)
    status = site.statuses.pop(0) if site.statuses else 200
    if status != 200:
        return plain(handler, status)
    if site.moved:
        handler.send_response(302)
        handler.send_header("Location", site.moved)
        handler.send_header("Content-Length", "0")
        return handler.end_headers()
    start = int(found[1]) if (found := re.fullmatch(r"bytes=(\d+)-", wanted)) and site.ranges else 0
    if start and handler.headers.get("If-Range") not in (site.etag, site.date):
        start = 0
    if start and start >= len(site.content):
        return plain(handler, 416)
    return send(handler, site, start)


def plain(handler, status):
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def send(handler, site, start):
    body = site.content[start:]
    whole = len(site.content) if site.announce is None else site.announce
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Type", site.kind)
    if site.etag:
        handler.send_header("ETag", site.etag)
    if site.date:
        handler.send_header("Last-Modified", site.date)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
    if site.announce != -1:
        handler.send_header("Content-Length", str(whole - start))
    handler.end_headers()
    body = body[: site.drops.pop(0)] if site.drops else body
    site.sent += len(body)
    handler.wfile.write(body)
    handler.close_connection = True
