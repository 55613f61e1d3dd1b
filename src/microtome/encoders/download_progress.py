"""How far a download is, how fast, and how long it still takes: one line that changes on a terminal, lines in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable

from microtome.storage.progress import Stream, duration_text

_WINDOW_S = 10.0
_UNITS = ("B", "kB", "MB", "GB")


class BytesShown:
    """Says how far one download is.

    Args:
        name: What is downloaded.
        stream: Where it is said; standard error by default.
        clock: Tells the time, in seconds.
    """

    def __init__(self, name: str, stream: Stream | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._stream: Stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._every_s = 0.5 if self._live else 10.0
        self._recent: deque[tuple[float, int]] = deque()
        self._said: float | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Say it, if the last word is old enough or this is the last one."""
        now = self._clock()
        if self._recent and done < self._recent[-1][1]:  # begun anew
            self._recent.clear()
        self._recent.append((now, done))
        while len(self._recent) > 2 and self._recent[1][0] < now - _WINDOW_S:
            self._recent.popleft()
        is_last = total is not None and done >= total
        if self._said is not None and now - self._said < self._every_s and not is_last:
            return
        self._said = now
        text = f"{self._name}: {self._text(done, total)}"
        end = "\n" if is_last or not self._live else ""
        self._stream.write(f"\r\x1b[K{text}{end}" if self._live else text + end)
        self._stream.flush()

    def _text(self, done: int, total: int | None) -> str:
        (then, before), (now, _) = self._recent[0], self._recent[-1]
        rate = (done - before) / (now - then) if now > then else 0.0
        parts = [bytes_text(done) if total is None else f"{bytes_text(done)} of {bytes_text(total)}"]
        if rate > 0:
            parts.append(f"{bytes_text(rate)}/s")
            if total is not None and done < total:
                parts.append(f"{duration_text((total - done) / rate)} left")
        return ", ".join(parts)


def bytes_text(n_bytes: float) -> str:
    """A number of bytes for people.

    Example:
        >>> bytes_text(999), bytes_text(1_234_567_890)
        ('999 B', '1.23 GB')
    """
    power = 0
    while n_bytes >= 999.5 and power < len(_UNITS) - 1:
        n_bytes, power = n_bytes / 1000, power + 1
    return f"{n_bytes:.3g} {_UNITS[power]}"
