"""Claims: of many processes on one folder, one makes each output.

A claim is a file, ``<output>.claim``, created exclusively; that is atomic on local disks and on NFS. Its
holder refreshes its date every 10 s. It is dead, and taken over, when that date is more than 60 s old by the
file system's own clock, or at once when it was made on this very machine by a process that is no more.
"""

import errno
import hashlib
import json
import os
import platform
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from microtome.errors import ClaimedError, OutputWriteError
from microtome.storage.files import remove_leftovers, write_errors_explained

CLAIM_HEARTBEAT_S = 10.0
CLAIM_EXPIRY_S = 60.0


@dataclass
class Claim:
    """A claim on an output, to be entered around its making.

    Entering it also removes the temporary files that killed writers of the output left.

    Args:
        output: The file that is to be made.

    Raises:
        ClaimedError: On entering, if another living process, or another thread of this one, holds the claim.
        OutputWriteError: On entering, if the folder cannot be written.
    """

    output: Path
    _content: str = field(default="", repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """The claim's own file."""
        return self.output.with_name(self.output.name + ".claim")

    def __enter__(self) -> "Claim":
        self._content = json.dumps({"token": uuid.uuid4().hex, "machine": _machine(), "pid": os.getpid()})
        with write_errors_explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._create(self.path):
                self._take_over_if_dead()
        remove_leftovers(self.output)
        remove_leftovers(self.path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {self.output.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            if self._is_mine():
                self.path.unlink()

    def is_held(self) -> bool:
        """Whether a living process holds this claim; changes nothing."""
        found = _read(self.path)
        return found is not None and _is_alive(self.path, found)

    def remove_if_dead(self) -> None:
        """Clean up after a process that was killed between finishing the output and letting go of it.

        For who finds the output made and so need not claim it. A living claim, or a folder that is read-only, is
        left as it is.
        """
        if self.path.exists():
            with suppress(ClaimedError, OutputWriteError), self:
                pass

    def check(self) -> None:
        """Make sure, before writing, that the claim is still held by this object.

        A process that was suspended for longer than a claim lives may find that another has taken over.

        Raises:
            ClaimedError: If it is not.
        """
        if not self._is_mine():
            raise ClaimedError(
                f"'{self.output}' was claimed by another process while this one stood still for more than "
                f"{CLAIM_EXPIRY_S:.0f} s. The other one makes it."
            )

    def _is_mine(self) -> bool:
        return _read(self.path) == self._content

    def _create(self, path: Path) -> bool:
        """Create a file that holds this claim's content from its first moment; False if there is one already."""
        whole = self.path.with_name(f".{self.path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        try:
            whole.write_text(self._content, encoding="utf-8")
            path.hardlink_to(whole)
        except FileExistsError:
            return _read(path) == self._content  # NFS may repeat a request that had succeeded
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            return self._create_in_place(path)
        finally:
            with suppress(OSError):
                whole.unlink(missing_ok=True)
        return True

    def _create_in_place(self, path: Path) -> bool:
        """The same where there are no hard links: a kill may leave it empty, and it then dies of age."""
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self._content)
        except FileExistsError:
            return False
        return True

    def _take_over_if_dead(self) -> None:
        found = _read(self.path)
        if found is not None and _is_alive(self.path, found):
            raise ClaimedError(f"'{self.output}' is being made by another process. Wait for it. {self._remedy()}")
        if found is not None:
            self._bury(found)
        elif not self._create(self.path):
            raise ClaimedError(f"'{self.output}' was just claimed by another process. Wait for it. {self._remedy()}")

    def _remedy(self) -> str:
        return f"If that process is dead, '{self.path.name}' expires after {CLAIM_EXPIRY_S:.0f} s."

    def _bury(self, dead: str) -> None:
        """Replace a dead claim by this one.

        Two processes may find the same dead claim. Whoever removed it last would remove the other's new one; so the
        right to remove *this* dead claim is a file of its own, named after what is in the claim.
        """
        grave = self._grave(dead)
        if not self._create(grave):
            digger = _read(grave)
            if digger is not None and not _is_alive(grave, digger):  # killed while burying
                grave.unlink(missing_ok=True)
            raise ClaimedError(f"'{self.output}' is being claimed by another process. Wait for it.")
        try:
            if _read(self.path) == dead:
                self.path.unlink()
            if not self._create(self.path):
                raise ClaimedError(f"'{self.output}' was just claimed by another process. Wait for it.")
        finally:
            grave.unlink(missing_ok=True)

    def _grave(self, dead: str) -> Path:
        """Named like a temporary file of the claim: whoever holds the claim next removes what a kill left of it."""
        name = hashlib.sha256(dead.encode()).hexdigest()
        return self.path.with_name(f".{self.path.name}.{int(name[:8], 16)}-{name[8:16]}.tmp")

    def _beat(self) -> None:
        while not self._stop.wait(CLAIM_HEARTBEAT_S):
            with suppress(OSError):
                if self._is_mine():
                    os.utime(self.path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_alive(path: Path, content: str) -> bool:
    """Whether the process that made a claim may still be at work."""
    maker = _maker(content)
    if maker is not None and not _is_running(maker):
        return False
    try:
        return _age(path) <= CLAIM_EXPIRY_S
    except FileNotFoundError:  # just let go
        return False


def _age(path: Path) -> float:
    """Seconds between a file's date and now by the file system's own clock, whichever is later."""
    date = path.stat().st_mtime
    with TemporaryFile(dir=path.parent) as probe:  # without a name, so that a kill leaves nothing
        now = os.fstat(probe.fileno()).st_mtime
    return abs(now - date)  # a date in the future is as wrong as an old one


@cache
def _machine() -> str:
    """Where a process id means something: this machine, since it was started, and this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    if len(parts) == 1:  # not Linux
        parts.append(f"{uuid.getnode():x}")
    return " ".join(parts)


def _maker(content: str) -> int | None:
    """Id of the process that made a claim on this very machine; None where nobody can tell."""
    try:
        found = json.loads(content)
        return int(found["pid"]) if found["machine"] == _machine() else None
    except (ValueError, KeyError, TypeError):  # killed between creating and writing it, or somebody else's
        return None


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # signal 0 would end the process there; its claim dies of age instead
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
