"""The verbs' configuration: flat, frozen, unknown keys refused. A YAML key is the flag's name with ``_`` for ``-``.

Nothing but pydantic is imported, so that ``--help`` is quick.
"""

from microtome.config.base import Options, explain, read_bytes, resolve
from microtome.config.main_job import (
    ConvertConfig,
    ExtractConfig,
    FeatureConfig,
    FormatName,
    InspectConfig,
    RunConfig,
    SlideOptions,
    TileConfig,
    TissueConfig,
)

__all__ = [
    "ConvertConfig",
    "ExtractConfig",
    "FeatureConfig",
    "FormatName",
    "InspectConfig",
    "Options",
    "RunConfig",
    "SlideOptions",
    "TileConfig",
    "TissueConfig",
    "explain",
    "read_bytes",
    "resolve",
]
