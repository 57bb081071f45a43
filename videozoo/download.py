"""Downloads of single files: resumed where they stopped, checked, done once when several processes ask at a time."""

import contextlib
import email.utils
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from .checkpoint import CheckpointError, atomic_path, sha256_file

_TIMEOUT = 30.0  # seconds without a byte
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for
_VALIDATORS = (("ETag", "etag"), ("Last-Modified", "modified"))  # header, key in the note
_BROKEN_CONNECTION = (TimeoutError, ConnectionError, http.client.HTTPException)


class DownloadError(OSError):
    """A file cannot be had from where it should be. The message names the source, the reason and a remedy."""


class _TransientError(Exception):
    """Worth another attempt, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids all network access, to published addresses too; read at each call."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def fetch_url(
    url: str,
    dest: str | os.PathLike,
    *,
    hash_prefix: str = "",
    progress: bool = True,
    retries: int = 5,
    sleep: Callable[[float], Any] = time.sleep,
) -> Path:
    """Downloads `url` (http, https, file) to `dest` unless it is there, and returns `dest`.

    Bytes are collected in `<dest>.part`, which a later call continues if the server still has the same file (same ETag
    or modification time); `dest` appears only when complete and checked. Processes that want the same `dest` wait for
    the first one. Broken connections, short answers, 408, 425, 429 and 5xx are retried with growing pauses, or after
    the time that the server names.

    Args:
        hash_prefix: how the file's hexadecimal SHA-256 begins; empty if unknown.
        retries: attempts after the first one.
        sleep: called with the seconds to wait before another attempt.

    Raises:
        DownloadError: no such file, no permission, no connection, offline mode, or all attempts failed.
        CheckpointError: the file has another hash; nothing of it is kept.
    """
    from filelock import FileLock

    dest = Path(dest)
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise DownloadError(
            f"{url!r} cannot be downloaded: its address should begin with https://, http:// or file://."
        )
    dest.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{dest}.lock"):
        if dest.exists() and sha256_file(dest).startswith(hash_prefix.lower()):
            return dest
        if is_offline() and scheme != "file":
            raise DownloadError(f"{url} is not downloaded because HF_HUB_OFFLINE is set; unset it to use the network.")
        part = _Part(dest, url)
        _download(url, part, progress, retries, sleep)
        found = sha256_file(part.path)
        if not found.startswith(hash_prefix.lower()):
            part.discard()
            raise CheckpointError(
                f"{url} gave the wrong file, which was removed: its sha256 should begin with {hash_prefix.lower()} "
                f"but is {found}; download it again, and if that does not help, the file was replaced at its address."
            )
        os.replace(part.path, dest)
        part.discard()
    return dest


class _Part:
    """The unfinished file `<dest>.part` and, beside it, what the server said about the file it belongs to."""

    def __init__(self, dest: Path, url: str) -> None:
        self.name = dest.name
        self.url = url
        self.path = dest.with_name(dest.name + ".part")
        self._note = dest.with_name(dest.name + ".part.json")
        if self._read_note().get("url") != url:
            self.discard()

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def is_complete(self) -> bool:
        return self.size() > 0 and self.size() == self._read_note().get("total")

    def resume_headers(self) -> dict[str, str]:
        """Headers that ask for the rest, provided that it is the rest of the same file; none if that cannot be told."""
        note = self._read_note()
        etag = note.get("etag") or ""
        validator = etag if etag and not etag.startswith("W/") else note.get("modified")
        if not validator or not self.size():
            return {}
        return {"Range": f"bytes={self.size()}-", "If-Range": validator}

    def begin(self, headers: http.client.HTTPMessage, total: int | None) -> None:
        """Forgets all bytes, since those to come are the file's first ones."""
        self.discard()
        note = {"url": self.url, "etag": headers["ETag"], "modified": headers["Last-Modified"], "total": total}
        with atomic_path(self._note) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def continues_with(self, headers: http.client.HTTPMessage) -> bool:
        """Whether a partial answer begins at our last byte and comes from the file that we have the beginning of."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
        note = self._read_note()
        same = all(headers[name] in (None, note.get(key)) for name, key in _VALIDATORS)
        return bool(span) and int(span[1]) == self.size() and span[2] in ("*", str(note.get("total"))) and same


def _download(url: str, part: _Part, progress: bool, retries: int, sleep: Callable[[float], Any]) -> None:
    for attempt in range(retries + 1):
        try:
            if not part.is_complete():
                _attempt(url, part, progress)
            return
        except _TransientError as error:
            if attempt == retries:
                raise DownloadError(
                    f"{url} could not be downloaded in {retries + 1} attempts (the last one: {error}); "
                    "try again later, the download goes on from where it stopped."
                ) from error
            sleep(min(2.0**attempt, 30.0) if error.wait is None else error.wait)


def _attempt(url: str, part: _Part, progress: bool) -> None:
    headers = {"User-Agent": "videozoo", **part.resume_headers()}
    with contextlib.closing(_open(urllib.request.Request(url, headers=headers), part)) as response:
        length = response.headers["Content-Length"]
        if response.status == 206:
            if not part.continues_with(response.headers):
                part.discard()
                raise _TransientError("the file changed on the server", wait=0.0)
        else:
            part.begin(response.headers, int(length) if length else None)
        total = part.size() + int(length) if length else None
        _receive(response, part, total, progress)
    if total is not None and part.size() != total:
        raise _TransientError(f"the connection ended after {part.size()} of {total} bytes")


def _open(request: urllib.request.Request, part: _Part) -> Any:
    url = request.full_url
    try:
        return _opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our part is longer than the file
            part.discard()
            raise _TransientError("the file changed on the server", wait=0.0) from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _TransientError(
                f"the server answered {error.code} {error.reason}", _wait_asked(url, error)
            ) from error
        raise DownloadError(
            f"{url} cannot be downloaded: the server answered {error.code} {error.reason}; if the file has moved, "
            "fetch it by hand and give its path as checkpoint_path."
        ) from error
    except _BROKEN_CONNECTION as error:
        raise _TransientError(f"{type(error).__name__}: {error}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
            raise _TransientError(f"{type(error.reason).__name__}: {error.reason}") from error
        raise DownloadError(
            f"{url} cannot be reached ({error.reason}); check the address, the network and the proxy settings."
        ) from error


def _opener() -> urllib.request.OpenerDirector:
    """Like `urllib.request.urlopen`, but for http, https and file alone: redirects cannot lead elsewhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.FileHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _wait_asked(url: str, error: urllib.error.HTTPError) -> float | None:
    """Seconds of the Retry-After header, given as a number or as a date; None without one."""
    value = error.headers["Retry-After"]
    if not value:
        return None
    try:
        if value.strip().isdigit():
            seconds = float(value)
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    if seconds > _LONGEST_WAIT:
        raise DownloadError(
            f"{url} is not available now: the server asks to wait {seconds:.0f} seconds; try again then."
        )
    return max(seconds, 0.0)


def _receive(response: Any, part: _Part, total: int | None, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=part.size(),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=part.name,
        disable=not progress,
    )
    with part.path.open("ab") as file, bar:
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _read(response: BinaryIO) -> bytes:
    try:
        return response.read1(1 << 18)
    except _BROKEN_CONNECTION as error:
        raise _TransientError(f"{type(error).__name__}: {error}") from error
