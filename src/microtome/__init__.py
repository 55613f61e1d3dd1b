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
    "write_cohort": "cohort",
    "Target": "cohort.targets",
    "find_target": "cohort.targets",
    "read_labels": "cohort.targets",
    "nested_splits": "cohort.splits",
    "leave_one_group_out": "cohort.splits",
    "read_splits": "cohort.splits",
    "write_splits": "cohort.splits",
    "Predictions": "cohort.predictions",
    "read_predictions": "cohort.predictions",
    "list_tasks": "tasks.catalogue",
    "read_task": "tasks.catalogue",
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
    "load_slide_encoder": "encoders.slide_encoders",
    "list_slide_encoders": "encoders.slide_encoders",
    "encode_slides": "tasks.slide_vectors",
    "Bag": "features.store",
    "FeatureStore": "features.store",
    "extract": "features.extract",
    "convert": "tasks.convert",
    "cluster_features": "tasks.cluster",
    "load_clusters": "tasks.cluster",
    "umap_features": "tasks.umap",
    "purity_score": "evaluation.clusters",
    "Evaluation": "evaluation.evaluate",
    "evaluate": "evaluation.evaluate",
    "compare_predictions": "evaluation.compare",
    "write_report": "viz.report",
    "draw_evaluation": "viz.evaluation_figures",
    "evaluate_files": "tasks.evaluate",
    "collect_results": "tasks.results",
    "cross_validate": "tasks.mil.cross_validate",
    "fit": "tasks.mil.fit",
    "run_benchmark": "tasks.mil.benchmark",
    "TrainedModel": "tasks.mil.model_folder",
    "save_model": "tasks.mil.model_folder",
    "load_model": "tasks.mil.model_folder",
    "predict": "tasks.mil.predict",
    "predict_files": "tasks.mil.predict",
    "explain": "tasks.mil.explain",
    "inspect": "tasks.inspect",
    "run": "tasks.run",
    "probe": "tasks.probe",
    "pretrain_hidisc": "tasks.pretrain.stages",
    "pretrain_slide_ssl": "tasks.pretrain.stages",
    "fit_ordinal": "tasks.pretrain.stages",
    "write_sample": "testing.synthetic",
    "score": "tasks.score",
    "srh_check": "tasks.srh.check",
    "srh_convert": "tasks.srh.convert",
    "srh_stain": "tasks.srh.stain",
    "write_srh_sample": "testing.srh_sample",
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
