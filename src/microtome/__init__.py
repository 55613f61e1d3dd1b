"""microtome: whole-slide images to tiles, features, clusters and a report.

The names below are loaded when first used, so that ``import microtome`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Box": "geometry",
    "Point": "geometry",
    "Size": "geometry",
    "Cohort": "cohort",
    "read_cohort": "cohort",
    "Slide": "slides.base",
    "open_slide": "slides.open",
    "list_slides": "slides.listing",
    "Tissue": "tissue.tissue",
    "find_tissue": "tissue.find",
    "Grid": "tiles.grid",
    "Tiles": "tiles.grid",
    "lay_tiles": "tiles.grid",
    "SlideTiles": "tiles.slide_tiles",
    "TileBatch": "tiles.source",
    "DeepZoomTiles": "tiles.deepzoom",
    "lay_deepzoom": "tiles.deepzoom",
    "find_coords": "tiles.coords_files",
    "read_addresses": "tiles.coords_files",
    "read_supplied_tiles": "tiles.coords_files",
    "TileSet": "tiles.tile_set",
    "TileFolder": "tiles.folder",
    "LabelledTiles": "tiles.folder",
    "PatchH5": "tiles.patch_h5",
    "TileSource": "tiles.source",
    "ImageCoding": "tiles.coding",
    "save_tiles": "tiles.save",
    "Card": "encoders.base",
    "Encoder": "encoders.base",
    "list_encoders": "encoders.registry",
    "load_encoder": "encoders.registry",
    "Bag": "features.store",
    "FeatureStore": "features.store",
    "extract": "features.extract",
    "convert": "tasks.convert",
    "cluster_features": "tasks.cluster",
    "load_clusters": "tasks.cluster",
    "umap_features": "tasks.umap",
    "purity_score": "evaluation.clusters",
    "write_report": "viz.report",
    "inspect": "tasks.inspect",
    "run": "tasks.run",
    "write_sample": "testing.synthetic",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - every name is a string; ruff cannot see through sorted()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute can be anything
    if name not in _HOME:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    value = getattr(import_module(f"microtome.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
