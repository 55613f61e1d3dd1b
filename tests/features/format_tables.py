"""Tables of features of every kind, and what a format gives back of them."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microtome.features.formats.format import Format
from microtome.features.formats.table import ADDRESS, NAME, FeatureTable, same_content
from microtome.geometry import DeepZoomPyramid, Size
from microtome.tiles.deepzoom import address_boxes

SIZE, SIDE = Size(5000, 3000), 64
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
ATTRS: dict[str, Any] = {
    "mpp": 0.5,
    "slide_mpp": 0.25,
    "slide_mpp_source": "metadata:openslide.mpp-x",
    "encoder": "org/encodér:v2",
    "patch_size": SIDE,
    "overlap": 0,
    "slide_size": [SIZE.width, SIZE.height],
    "recipe": '{"tile_px":64}',
    "recipe_digest": "ab" * 16,
    "modality": "brightfield",
    "n_tiles_total": 9,
}


def boxes_of(n: int, kind: str, rng: np.random.Generator) -> np.ndarray | None:
    """Boxes of a kind: on the DeepZoom grid, all of one size, of many sizes; or none."""
    if kind == "deepzoom":
        pyramid = DeepZoomPyramid(SIZE, SIDE)
        level = pyramid.level_count - 1 - int(rng.integers(0, 3))
        columns, rows = pyramid.grid(level)
        cells = rng.choice(columns * rows, n, replace=False)
        return address_boxes(pyramid, np.stack([np.full(n, level), cells % columns, cells // columns], axis=1))
    boxes = rng.integers(-(2**31), 2**31, (n, 4))
    boxes[:, 2:] = rng.integers(1, 2**20) if kind == "one size" else rng.integers(1, 2**20, (n, 2))
    return None if kind in ("nowhere", "corners") else boxes


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """What :func:`made` makes tables of: 0 to 6 tiles, features of 1 to 5 numbers, and any of the other parts."""
    n, dtype = draw(st.integers(0, 6)), draw(st.sampled_from(["float32", "float16"]))
    finite = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    return {
        "slide_id": draw(st.sampled_from(["A", "TCGA-3X (2)", "Ü字", "a.b"])),
        "features": draw(hnp.arrays(dtype, (n, draw(st.integers(1, 5))), elements=finite)),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "kind": draw(st.sampled_from(["deepzoom", "one size", "many sizes", "corners", "nowhere"])),
        "names": draw(st.none() | st.lists(TEXT, min_size=n, max_size=n, unique=True)),
        "has_blur": draw(st.booleans()),
        "has_rows": draw(st.booleans()),
        "attrs": draw(st.sets(st.sampled_from(sorted(ATTRS)))),
        "n_unreadable": draw(st.integers(0, 2)),
    }


def made(spec: dict[str, Any]) -> FeatureTable:
    """A table; not made inside of the strategy, since the type checks of our own code draw random numbers."""
    n, m, kind, rng = len(spec["features"]), spec["n_unreadable"], spec["kind"], np.random.default_rng(spec["seed"])
    columns: dict[str, np.ndarray] = {}
    if spec["names"] is not None:
        columns[NAME] = np.array(spec["names"], object)
    if spec["has_blur"]:
        columns["blur"] = rng.random(n).astype(np.float32)
    names = spec["attrs"] | ({"slide_size", "patch_size"} if kind == "deepzoom" else set())
    return FeatureTable(
        spec["slide_id"],
        spec["features"],
        boxes=boxes_of(n, kind, rng),
        coords=rng.integers(-(2**31), 2**31, (n, 2)) if kind == "corners" else None,
        columns=columns,
        attrs={name: ATTRS[name] for name in sorted(names)},
        rows=np.sort(rng.choice(100, n, replace=False)).astype(np.int64) if spec["has_rows"] else None,
        unreadable=rng.integers(0, 2**40, (m, 4)),
        unreadable_rows=np.arange(m) + 200,
        unreadable_errors=("torn", "lost, ‘ü’")[:m],
    )


def kept(table: FeatureTable, target: Format) -> FeatureTable:
    """What must come back from a format."""
    prepared = target.prepare(table)
    dtype = target.dtype_for(prepared, None)
    return replace(prepared, features=prepared.features.astype(dtype)).only(target.holds)


def assert_same(found: FeatureTable, wanted: FeatureTable) -> None:
    """Equal to the bit, with a look at the parts where they are not."""
    np.testing.assert_array_equal(found.features, wanted.features)
    for name in ("corners", "boxes") if len(wanted) else ():
        assert (getattr(found, name) is None) == (getattr(wanted, name) is None), name
    assert same_content(found, wanted)


def address_column(table: FeatureTable) -> np.ndarray:
    return np.asarray(table.columns[ADDRESS])
