"""One large file from a link: resumed where it broke off, checked, whole or absent, made by one process only.

What has come so far lies in ``<file>.part``; beside it ``<file>.part.json`` says of which version of the file it is,
so that two versions are never joined.
"""

import errno
import http.client
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from microtome.errors import ClaimedError, MicrotomeError, OutputWriteError, WeightsError
from microtome.storage import Claim, flush_to_disk, hash_file, write_json

_CHUNK_BYTES = 1024 * 1024
_TIMEOUT_S = 30.0
_CLAIM_POLL_S = 1.0
_TRIES = 5  # in a row that bring nothing new
_LONGEST_PAUSE_S = 30.0
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_MIB = 1024 * 1024


@runtime_checkable
class Shown(Protocol):
    """Where a download says how far it is."""

    def __call__(self, done: int, total: int | None) -> None:
        """Say it: bytes so far, and in all where that is known."""


class _BrokeOffError(Exception):
    """This try ended early; the next one may do better."""


@dataclass(frozen=True, slots=True)
class _Download:
    """One file on its way.

    Attributes:
        url: From where.
        path: To where.
        sha256: What it must be; empty where nobody knows.
        shown: Told of its progress.
        opener: Opens links.
    """

    url: str
    path: Path
    sha256: str
    shown: Shown
    opener: OpenerDirector

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def note(self) -> Path:
        """Of which version it is."""
        return self.path.with_name(f"{self.path.name}.part.json")

    @property
    def by_hand(self) -> str:
        """What to do where it cannot be had."""
        return (
            f"Or download it by hand and pass --weights FILE, or put it where MICROTOME_WEIGHTS says, as "
            f"'{self.path.parent.name}/{self.path.name}'."
        )

    def forget(self) -> None:
        """Begin anew."""
        for path in (self.part, self.note):
            with suppress(FileNotFoundError):
                path.unlink()


def download(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    shown: Shown | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a file unless it is there. Of several processes one does it and the others wait.

    Args:
        url: ``https``; ``http`` only from this very machine.
        path: Where it is to be; its folder is made.
        sha256: What it must be; empty where nobody knows.
        shown: Told of progress.
        pause: Waits so many seconds.

    Returns:
        ``path``.

    Raises:
        WeightsError: If it cannot be had, is a web page, or is not the file that was meant.
        OutputWriteError: If the folder cannot be written.
    """
    check_link(url)
    wanted = _Download(url, path, sha256.lower(), shown or _silent, build_opener(_SafeRedirects()))
    with ExitStack() as stack:
        while not path.is_file():
            try:
                stack.enter_context(Claim(path))
            except ClaimedError:
                pause(_CLAIM_POLL_S)
                continue
            if not path.is_file():
                with _write_errors_explained(wanted):
                    _download(wanted, pause)
    return path


def check_link(url: str) -> None:
    """Refuse links whose answer somebody on the way could change.

    Raises:
        WeightsError: If it is neither ``https`` nor to this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname or "")):
        return
    raise WeightsError(f"'{url}' is no https link, so what comes from there cannot be trusted. Pass --weights FILE.")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SafeRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, *answer: Any) -> Request | None:  # noqa: ANN401 - the library's own
        check_link(answer[-1])  # where it leads
        return super().redirect_request(req, *answer)


def _silent(done: int, total: int | None) -> None:
    del done, total


def _download(wanted: _Download, pause: Callable[[float], None]) -> None:
    furthest, tries = _size(wanted.part), 0
    while True:
        try:
            _receive_rest(wanted)
            break
        except _BrokeOffError as error:
            size = _size(wanted.part)
            tries = 0 if size > furthest else tries + 1
            furthest = max(furthest, size)
            if tries >= _TRIES:
                raise WeightsError(
                    f"'{wanted.url}' cannot be downloaded: {error}. Tried {tries} times in a row. Check the network "
                    f"(and the variable HTTPS_PROXY) and run again: it goes on from {size} bytes. {wanted.by_hand}"
                ) from error
            pause(min(2.0**tries, _LONGEST_PAUSE_S))
    _check_content(wanted)
    flush_to_disk(wanted.part)
    wanted.part.replace(wanted.path)
    wanted.forget()


def _receive_rest(wanted: _Download) -> None:
    """Append to the part what it lacks.

    Raises:
        _BrokeOffError: If the connection did not last.
        WeightsError: If the server says no, or sends something else.
    """
    have, version = _begun(wanted)
    headers = {"User-Agent": "microtome", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        response = wanted.opener.open(Request(wanted.url, headers=headers), timeout=_TIMEOUT_S)  # noqa: S310 - see check_link
    except HTTPError as error:
        error.close()
        _refused(wanted, error.code)
        raise _BrokeOffError(f"the server answers {error.code} {error.reason}") from error
    except (URLError, http.client.HTTPException, OSError) as error:
        raise _BrokeOffError(_reason(error)) from error
    with response:
        found = _RANGE.fullmatch(response.headers.get("Content-Range") or "") if response.status == 206 else None
        if response.status == 206 and (found is None or int(found[1]) != have):
            wanted.forget()
            raise _BrokeOffError("the server sent another part than was asked for")
        start = have if found else 0
        total = int(found[2]) if found else _length(response)
        _check_answer(wanted, response, start, total)
        if not found:
            _begin(wanted, response)
        _append(wanted, response, start, total)
    if total is not None and _size(wanted.part) != total:
        raise _BrokeOffError(f"it broke off after {_size(wanted.part)} of {total} bytes")


def _append(wanted: _Download, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
    done = start
    with wanted.part.open("ab" if start else "wb") as file:
        wanted.shown(done, total)
        while True:
            try:
                chunk = response.read(_CHUNK_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _BrokeOffError(f"it broke off after {done} bytes ({_reason(error)})") from error
            if not chunk:
                return
            file.write(chunk)
            done += len(chunk)
            wanted.shown(done, total)


def _begun(wanted: _Download) -> tuple[int, str]:
    """How many bytes are there of which version; none where nobody can tell whether what follows belongs to them."""
    have = _size(wanted.part)
    try:
        said = json.loads(wanted.note.read_text(encoding="utf-8"))
        version = str(said["version"]) if said["url"] == wanted.url else ""
    except (OSError, ValueError, KeyError, TypeError):
        version = ""
    return (have, version) if have and version else (0, "")


def _begin(wanted: _Download, response: http.client.HTTPResponse) -> None:
    """Note which version begins to come: a strong ETag, else the date."""
    wanted.forget()
    tag, date = response.headers.get("ETag") or "", response.headers.get("Last-Modified") or ""
    version = date if tag.startswith("W/") else tag or date
    if version:
        write_json(wanted.note, {"url": wanted.url, "version": version})


def _check_answer(wanted: _Download, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise WeightsError(
            f"'{wanted.url}' was answered with a web page in place of '{wanted.path.name}': a login, a licence to "
            f"accept, or a notice that the file has moved. Open it in a browser. {wanted.by_hand}"
        )
    if total is None and not wanted.sha256:
        raise WeightsError(
            f"'{wanted.url}' does not say how long the file is and its SHA-256 is not known, so nobody could tell "
            f"whether it came whole. {wanted.by_hand}"
        )
    free = shutil.disk_usage(wanted.path.parent).free
    if total is not None and total - start > free:
        raise OutputWriteError(
            _no_space(wanted, f"{(total - start) / _MIB:.0f} MiB are needed, {free / _MIB:.0f} free")
        )


def _no_space(wanted: _Download, why: str) -> str:
    return (
        f"'{wanted.path}' cannot be written: {why}. Free space, or set MICROTOME_CACHE to a folder on a larger disk, "
        "and run again: it goes on from what has come."
    )


@contextmanager
def _write_errors_explained(wanted: _Download) -> Iterator[None]:
    try:
        yield
    except MicrotomeError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputWriteError(_no_space(wanted, "the disk is full")) from error
        raise OutputWriteError(
            f"'{wanted.path}' cannot be written: {error.strerror or error}. Set MICROTOME_CACHE to a folder that you "
            "may write to."
        ) from error


def _refused(wanted: _Download, code: int) -> None:
    """Raise where another try would not help."""
    if code == 416:  # what is here is longer than what is there: another version
        wanted.forget()
        return
    if code in _WORTH_ANOTHER_TRY:
        return
    if code in (404, 410):
        raise WeightsError(
            f"'{wanted.url}' is no longer there (HTTP {code}). Look on the encoder's page for where it has gone. "
            f"{wanted.by_hand}"
        )
    if code in (401, 403):
        raise WeightsError(
            f"'{wanted.url}' is not given to everybody (HTTP {code}). Ask for access on the encoder's page. "
            f"{wanted.by_hand}"
        )
    raise WeightsError(f"'{wanted.url}' cannot be downloaded (HTTP {code}). {wanted.by_hand}")


def _check_content(wanted: _Download) -> None:
    """Make sure that what came is the file that was meant; it is thrown away if not."""
    with wanted.part.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if not head or head.startswith((b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")):
        wanted.forget()
        what = "an empty file" if not head else "a Git LFS pointer" if head.startswith(b"version") else "a web page"
        raise WeightsError(f"'{wanted.url}' gave {what} in place of '{wanted.path.name}'. {wanted.by_hand}")
    found = hash_file(wanted.part) if wanted.sha256 else ""
    if found != wanted.sha256:
        wanted.forget()
        raise WeightsError(
            f"'{wanted.url}' gave another file than was published: its SHA-256 is {found}, the card says "
            f"{wanted.sha256}. It was thrown away. Run again; if it stays so, the file was replaced: to use it all the "
            "same, download it by hand and pass --weights FILE."
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _length(response: http.client.HTTPResponse) -> int | None:
    said = response.headers.get("Content-Length") or ""
    return int(said) if said.isdecimal() else None


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return str(cause).strip() or type(error).__name__
