"""Files by URL, from a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from turbobench.download import fetch_url
from turbobench.errors import FetchError

CONTENT = b"a text" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100] if self.path == "/cut" else CONTENT)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_the_file_arrives_whole(server: str, tmp_path: Path) -> None:
    assert fetch_url(f"{server}/text", SHA256, tmp_path / "text").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "reason"),
    [("/missing", SHA256, "404"), ("/cut", SHA256, "broke off after 100"), ("/text", "0" * 64, "not the pinned")],
)
def test_anything_but_the_whole_file_is_refused_and_leaves_nothing(
    server: str, tmp_path: Path, path: str, sha256: str, reason: str
) -> None:
    with pytest.raises(FetchError, match=reason) as caught:
        fetch_url(server + path, sha256, tmp_path / "text")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_a_reason_and_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch_url("http://127.0.0.1:9/text", SHA256, tmp_path / "text")
