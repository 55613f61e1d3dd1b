"""Columns of tables made without pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from microtome.tiles.columns import flags, integers, texts

SAVING = """
import sys
import numpy as np
from pathlib import Path
from microtome import Grid, SlideTiles, lay_tiles, save_tiles
from microtome.testing.array_slide import ArraySlide
slide = ArraySlide(np.zeros((64, 64, 3), np.uint8))
for _ in range(2):  # written, then found finished
    save_tiles(SlideTiles(slide, lay_tiles(slide, None, Grid(tile_px=32, mpp=0.5))), Path(sys.argv[1]))
assert "pandas" not in sys.modules
"""


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_come_back(values):
    column = integers(np.array(values, np.int64))
    column.validate(full=True)
    assert (column.type, column.to_pylist()) == (pa.int64(), values)


@given(st.lists(st.integers(0, 9)), st.integers(1, 3))
def test_integers_that_do_not_lie_side_by_side_come_back(values, step):
    wide = np.array(values, np.int64).repeat(step)
    assert integers(wide[::step]).to_pylist() == values


@given(st.lists(st.booleans()))
def test_flags_come_back(values):
    column = flags(np.array(values, np.bool_))
    column.validate(full=True)
    assert column.to_pylist() == values


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_back(values):
    column = texts(values)
    column.validate(full=True)
    assert (column.type, column.to_pylist()) == (pa.string(), values)


def test_a_file_name_that_is_no_text_does_not_spoil_the_table():
    name = b"/slides/caf\xe9".decode("utf-8", "surrogateescape")
    assert texts([name, "b"]).to_pylist() == ["/slides/caf\\udce9", "b"]


def test_saving_tiles_does_not_import_pandas(tmp_path):
    subprocess.run([sys.executable, "-c", SAVING, str(tmp_path / "A12")], check=True)
