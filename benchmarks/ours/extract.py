"""Features of the tiles of a plan, or only their decoding, or only the encoder; see ``extract_end_to_end.py``.

Usage: extract.py PLAN PART, where PART is both, decode or encode. The plan has slide, boxes, out_px, copies (how many
slides the file stands for), encoder, weights, precision, batch_size, decode, measured (whether quality flags are
measured), and keep (a file for features, or null).
"""

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from measure import report, timed

from microtome.encoders.base import Encoder
from microtome.encoders.registry import load_encoder
from microtome.features.extract import ExtractOptions, extract_all
from microtome.features.outcomes import Failure, Job, Timings
from microtome.features.store import FeatureStore
from microtome.slides.direct_cache import TileCache
from microtome.slides.open import open_slide
from microtome.tasks.quality import MeasuredTiles
from microtome.tiles.grid import Grid, Tiles
from microtome.tiles.slide_tiles import SlideTiles

_CACHE_BYTES = 128 * 2**20  # as the loop has by default
_THREADS = cpu_count() or 1


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    boxes = np.array(plan["boxes"], np.int64)
    part, n = sys.argv[2], len(boxes) * plan["copies"]
    opened = partial(open_tiles, plan, boxes)
    more: dict[str, Any] = {}
    if part == "decode":
        _, cpu_s, wall_s = timed(lambda: [decode_all(opened(i)) for i in range(plan["copies"])])
    else:
        encoder = load_encoder(plan["encoder"], weights=plan["weights"], precision=plan["precision"])
        with opened(0) as source:
            images = source.read(np.arange(plan["batch_size"]) % len(source)).images
        encoder.encode(images)  # compiles what it compiles
        more = {"runtime": f"{getattr(encoder, 'runtime', 'numpy, OpenCV')} {encoder.precision}"}
        if part == "encode":
            _, cpu_s, wall_s = timed(encode_all, encoder, images, n)
        else:
            found, cpu_s, wall_s = timed(extract_features, plan, encoder, opened)
            more |= found
    report(n, cpu_s, wall_s, **more)


def open_tiles(plan: dict[str, Any], boxes: np.ndarray, index: int) -> SlideTiles:
    """The tiles of the plan, as those of one of its slides."""
    slide = open_slide(plan["slide"])
    mpp = slide.mpp * plan["boxes"][0][2] / plan["out_px"]
    grid = Grid(tile_px=plan["out_px"], mpp=mpp)
    tiles = Tiles(boxes, np.ones(len(boxes), np.float32), grid.tile_px, mpp, None, grid, slide.size, slide.mpp)
    kind = MeasuredTiles if plan["measured"] else SlideTiles
    return kind(slide, tiles, f"slide-{index:03d}", decode=plan["decode"])


def decode_all(source: SlideTiles) -> None:
    """Decode all tiles as the loop does, and do nothing with them."""
    rows = np.arange(len(source))
    source.expect(rows, TileCache(_CACHE_BYTES))
    with source, ThreadPoolExecutor(_THREADS) as pool:
        for batch in pool.map(source.read, [rows[i : i + 16] for i in range(0, len(rows), 16)]):
            if not batch.readable.all():
                raise RuntimeError(f"tiles cannot be decoded: {batch.errors}")


def encode_all(encoder: Encoder, images: np.ndarray, n: int) -> None:
    """Encode one batch until n tiles are done, in as many threads as the loop would."""
    with ThreadPoolExecutor(_THREADS if encoder.concurrent else 1) as pool:
        list(pool.map(lambda _: encoder.encode(images), range(-(-n // len(images)))))


def extract_features(plan: dict[str, Any], encoder: Encoder, opened: Callable[[int], SlideTiles]) -> dict[str, Any]:
    """The whole loop, from opening the slides to their sealed files."""
    failures: list[Failure] = []
    jobs = [Job(f"slide-{i:03d}", partial(opened, i)) for i in range(plan["copies"])]
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder))
        options = ExtractOptions(batch_size=plan["batch_size"])
        timings = extract_all(
            jobs, encoder, store, options, on_done=lambda o: failures.append(o) if isinstance(o, Failure) else None
        )
        if failures:
            raise failures[0].error
        if plan["keep"]:
            np.save(plan["keep"], np.asarray(store["slide-000"].features, np.float32))
    return {"wait_share": timings.encoder_wait_share, **_plain(timings)}


def _plain(timings: Timings) -> dict[str, float]:
    names = ("seconds", "decode_wait_s", "encode_s", "write_s", "peak_bytes", "encoder_threads")
    return {name: getattr(timings, name) for name in names}


if __name__ == "__main__":
    main()
