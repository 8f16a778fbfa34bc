"""Gets a file by URL, with progress, checked against its pinned hash."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from turbobench import console
from turbobench.errors import FetchError
from turbobench.paths import atomic_path
from turbobench.wheels import check_hash

_TIMEOUT_S = 30.0
_CHUNK = 1 << 16


def fetch_url(url: str, sha256: str, target: Path) -> Path:
    """Download a file and put it whole at `target`; FetchError with the reason if it cannot be had or is another."""
    with atomic_path(target) as part:
        try:
            _copy(url, part)
        except urllib.error.HTTPError as failure:
            raise FetchError(
                f"{url}: the server answers {failure.code} {failure.reason}", "try again later"
            ) from failure
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as failure:
            reason = getattr(failure, "reason", failure)
            raise FetchError(f"{url} cannot be reached: {reason}", "check the connection or the proxy") from failure
        check_hash(part, sha256, url)
    return target


def _copy(url: str, part: Path) -> None:
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is not a web address", "give an http or https URL")
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer,  # noqa: S310 - the scheme is checked above
        part.open("wb") as out,
        console.progress(download=True) as display,
    ):
        length = answer.headers.get("Content-Length")
        task = display.add_task(url.rsplit("/", 1)[-1], total=float(length) if length else None)
        received = 0
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            received += len(chunk)
            display.update(task, completed=received)
    if length and received != int(length):
        raise FetchError(f"{url} broke off after {received} of {length} bytes", "try again")
