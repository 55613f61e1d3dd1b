"""The process of one device: settings come on standard input, what it does goes out on standard output.

The first line of the input is the settings, as JSON. When the input ends, whoever started this process has gone or
wants it to stop, and it stops as after Ctrl-C. Each line of the output is an event, as JSON.
"""

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TextIO

from microtome.config import ExtractConfig
from microtome.errors import MicrotomeError
from microtome.storage import Progress
from microtome.tasks.devices import REFUSED, STOPPED
from microtome.tasks.run import RunResult, RunStoppedError, run


class PipedProgress(Progress):
    """Progress as lines of JSON.

    Args:
        stream: Where they go. That nobody reads them any more is no error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def send(self, **event: object) -> None:
        """Write one event."""
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    def start(self, stage: str, total: int, unit: str = "slides") -> None:
        """Begin a stage."""
        self.send(kind="start", stage=stage, total=total)

    def expect(self, n_tiles: int) -> None:
        """Say how many tiles one more slide has."""
        self.send(kind="expect", n_tiles=n_tiles)

    def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None:
        """Count what has been done."""
        self.send(kind="advance", n_slides=n_slides, n_tiles=n_tiles)

    def note(self, text: str) -> None:
        """Say something once."""
        self.send(kind="note", text=text)

    def finish(self) -> None:
        """Stages end when the next one begins."""


def main() -> int:
    """Do the job that the input describes; the exit code is that of the command line."""
    settings = ExtractConfig.model_validate_json(sys.stdin.readline())
    progress = PipedProgress(sys.stdout)
    sys.stdout = sys.stderr  # whatever a library prints is no event
    threading.Thread(target=_stop_when_the_input_ends, daemon=True).start()
    try:
        result = run(settings, progress=progress)
    except RunStoppedError as stopped:
        _send_result(progress, stopped.result)
        return STOPPED
    except KeyboardInterrupt:  # before there was anything to stop
        return STOPPED
    except MicrotomeError as error:
        progress.send(kind="refused", text=str(error))
        return REFUSED
    _send_result(progress, result)
    return 0


def _send_result(progress: PipedProgress, result: RunResult) -> None:
    done = set(result.record.done)
    progress.send(kind="result", made={row.slide_id: row.seconds for row in result.rows if row.slide_id in done})


def _stop_when_the_input_ends() -> None:
    os.read(sys.stdin.fileno(), 1)  # past the buffer, which a daemon thread must not hold when Python ends
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
