"""The memory budget, held against what a process of its own really takes: its high-water mark, as the kernel has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from microtome.testing.big_slides import write_svs_like

SCRIPT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2
import numpy as np
from microtome.encoders.registry import load_encoder
from microtome.features.extract import extract, ExtractOptions
from microtome.features.store import FeatureStore
from microtome.slides.open import open_slide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles

slide, out, memory, batch_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
encoder = load_encoder("texture")
opened = open_slide(slide)
with SlideTiles(opened, lay_tiles(opened, None, Grid(tile_px=224, mpp=0.25))) as source:
    decoded = len(source) * 224 * 224 * 3
    if memory:
        options = ExtractOptions(batch_size=batch_size, workers=2, encoder_threads=2, memory_bytes=memory)
        done = extract(source, encoder, FeatureStore(out), options)
        assert done.n_tiles == len(source)
    else:  # the same, without holding tiles: two threads read one each and encode a batch of it
        def work(row):
            images = source.read(np.array([row])).images
            return encoder.encode(np.broadcast_to(images, (batch_size, *images.shape[1:])))
        with ThreadPoolExecutor(2) as pool:
            for turn in range(4):
                list(pool.map(work, [2 * turn, 2 * turn + 1]))
(line,) = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM:"))
print(decoded, int(line.split()[1]) * 1024)
"""

MIB = 1024 * 1024


def peak_bytes(slide, out, memory, batch_size) -> tuple[int, int]:
    """Bytes of all tiles of the slide, decoded, and the most that the process took."""
    arguments = [sys.executable, "-c", SCRIPT, slide, out, memory, batch_size]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoded, peak = done.stdout.split()
    return int(decoded), int(peak)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return write_svs_like(tmp_path_factory.mktemp("memory") / "a.svs", 10_000, tissue_share=0.5, repeat_tiles=True).path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to see the high-water mark")
@pytest.mark.parametrize(("memory", "batch_size"), [(80 * MIB, 32), (120 * MIB, 64)])
def test_tiles_in_flight_take_no_more_than_the_budget(slide, tmp_path, memory, batch_size):
    _, baseline = peak_bytes(slide, tmp_path, 0, batch_size)
    decoded, peak = peak_bytes(slide, tmp_path, memory, batch_size)
    assert decoded > 2 * memory  # else nothing is shown
    assert peak < baseline + memory
