"""A page on this machine that shows a picture while it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from vlm3_ros import drawing

LAST_S = 3.0  # at the end, a page that is open gets this long to fetch the last picture

# The picture is fetched anew every second and shown once it is whole; when nobody answers any more, it stays.
PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>vlm3 demo</title>
<style>
body { margin: 0; background: #181b1f }
img { display: block; margin: auto; max-width: 100vw; max-height: 100vh }
</style>
<img id="shown" src="picture.jpg" alt="what the node perceives">
<script>
setInterval(() => {
  const next = new Image();
  next.onload = () => document.getElementById("shown").src = next.src;
  next.src = "picture.jpg?" + Date.now();
}, 1000);
</script>
"""


class Page:
    """Serves the picture that was shown last, to this machine only. Raises RuntimeError where the port is taken."""

    def __init__(self, port: int):
        """``port`` 0 is any free one."""
        self._open = False  # whether anybody has ever looked
        self.show(_waiting())
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            raise RuntimeError(f"no page can be shown on port {port}: {error.strerror}; try --live 0") from error
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, name="live", daemon=True).start()

    def show(self, picture: np.ndarray) -> None:
        """The next picture, uint8 [h, w, 3] RGB."""
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
        self._shown = jpeg, threading.Event()  # which says that it was fetched

    def close(self) -> None:
        """Stop serving, once an open page has the last picture."""
        if self._open:
            self._shown[1].wait(LAST_S)
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/":
                    self._send("text/html; charset=utf-8", PAGE)
                elif path == "/picture.jpg":
                    page._open = True
                    jpeg, fetched = page._shown
                    self._send("image/jpeg", jpeg)
                    fetched.set()
                else:
                    self.send_error(404)

            def _send(self, kind: str, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Not on the terminal."""

        return Handler


@contextmanager
def shown(port: int | None) -> Iterator[Page | None]:
    """A page on a port, closed at the end; none where there is no port."""
    page = None if port is None else Page(port)
    try:
        yield page
    finally:
        if page is not None:
            page.close()


def _waiting() -> np.ndarray:
    picture = np.full((900, 1440, 3), drawing.PAPER, np.uint8)
    drawing.write(picture, "waiting for the first frame: the model is loaded, then it looks", (440, 450), size=0.6)
    return picture
