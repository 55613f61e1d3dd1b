"""What every measured script shares, ours and the peers': clocks that count children, peak memory, the line it prints.

Only the standard library, because it runs in the peers' environments too.
"""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def peak_rss_mb() -> float:
    """The most memory this process ever held, MB (10⁶ bytes); its children's is not in it."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start with what the parent held before this program was started
        (line,) = (text for text in status.read_text().splitlines() if text.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def timed(function: Callable[..., _T], *arguments: object) -> tuple[_T, float, float]:
    """Call a function; give what it returns, and the CPU and wall seconds it took."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = function(*arguments)
    return result, cpu_seconds() - cpu, time.perf_counter() - wall


def report(n: float, cpu_s: float, wall_s: float, **checks: object) -> None:
    """Print the one line that the harness reads: it must be the last of standard output.

    Args:
        n: Items done.
        cpu_s: CPU seconds of the measured part.
        wall_s: Its wall seconds.
        checks: Whatever else says that it did the work: ``version``, ``digest``, ...
    """
    sys.stdout.flush()
    print(json.dumps({"n": n, "cpu_s": cpu_s, "wall_s": wall_s, "peak_rss_mb": peak_rss_mb(), **checks}))


Reader = Callable[[list[list[int]]], Any]


def measure_tiles(opened: Callable[[], Reader], plan: dict[str, Any], version: str) -> None:
    """Read the tiles of a plan against the clock, then once more to look at them, and report.

    Args:
        opened: Opens the slide anew and gives what reads the RGB tiles (arrays) of some boxes, rows of x y w h in
            level-0 pixels. It is not timed, and what it opens has nothing in its caches.
        plan: ``boxes``, ``threads``, ``repeats``, and ``keep``: a file for the bytes of the first tiles.
        version: Of the library.
    """
    boxes, threads = plan["boxes"], plan["threads"]
    parts = [boxes[i : i + 16] for i in range(0, len(boxes), 16)]
    opened()(parts[-1])  # what a library does once per process, it does now
    cpu_s = wall_s = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(plan["repeats"]):
            read = opened()
            run = pool.map if threads > 1 else map
            _, cpu, wall = timed(lambda read=read, run=run: all(len(tiles) > 0 for tiles in run(read, parts)))
            cpu_s, wall_s = cpu_s + cpu, wall_s + wall
    digest, read = hashlib.sha256(), opened()
    with Path(plan["keep"]).open("wb") as kept:
        for index, part in enumerate(parts):
            for tile in read(part):
                digest.update(tile.tobytes())
                if index == 0:
                    kept.write(tile.tobytes())
    report(len(boxes) * plan["repeats"], cpu_s, wall_s, digest=digest.hexdigest()[:16], version=version)
