"""microtome's own feature files, the middle of every conversion: they hold all that any of the others does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

import microtome
from microtome.errors import ConfigError
from microtome.features.bag import BagContent, check_bag, read_bag, write_bag_file
from microtome.features.formats.format import Format
from microtome.features.formats.table import FeatureTable, Part, table_of
from microtome.storage import written_whole
from microtome.storage.seal import is_sealed

_OF_COORDS = ("name", "patch_size", "patch_level", "overlap")
_OF_ITS_OWN = ("format", "version", "features_crc32", "patch_size_level0")
_BLOCK_ROWS = 4096


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read a file of ours, and make sure that its features are those that were written.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If it is damaged, or not of ours.
    """
    bag = read_bag(path, slide_id)
    if not is_sealed(path):
        raise ConfigError(f"'{path}' was not written by microtome. Read it with --from clam-h5.")
    check_bag(path, bag)
    return table_of(bag)


def write(path: Path, table: FeatureTable) -> None:
    """Write a file of ours, whole.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    attrs = {name: value for name, value in table.attrs.items() if name not in (*_OF_COORDS, *_OF_ITS_OWN)}
    of_coords = {name: table.attrs[name] for name in _OF_COORDS if name in table.attrs}
    where = table.corners is not None
    content = BagContent(
        boxes=table.boxes,
        coords=table.coords,
        rows=table.numbers,
        unreadable=table.unreadable,
        unreadable_rows=table.unreadable_rows,
        unreadable_errors=table.unreadable_errors,
        attrs={
            **attrs,
            **({} if where else of_coords),
            "slide_id": table.slide_id,
            "microtome_version": microtome.__version__,
        },
        coords_attrs={**of_coords, "name": table.slide_id} if where else {},
        columns=table.columns,
    )
    features = table.features
    with written_whole(path) as temporary:
        write_bag_file(temporary, content, blocks(features), dim=features.shape[1], dtype=features.dtype.name)


def blocks(features: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "_ d"]]:
    """The rows, some at a time."""
    for start in range(0, len(features), _BLOCK_ROWS):
        yield features[start : start + _BLOCK_ROWS]


MICROTOME = Format(
    name="microtome",
    made_by="microtome",
    layout="{slide_id}.h5",
    holds=frozenset(Part),
    dtypes=("float32", "float16"),
    default_dtype=None,
    read=read,
    write=write,
    note="CLAM's and Trident's readers take it as it is.",
)
