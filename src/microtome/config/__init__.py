"""The verbs' configuration: flat, frozen, unknown keys refused. A YAML key is the flag's name with ``_`` for ``-``.

Nothing but pydantic is imported, so that ``--help`` is quick.
"""

from microtome.config.base import Options, explain, read_bytes, resolve
from microtome.config.evaluating import EvaluateConfig, ResultsConfig
from microtome.config.learning import BenchmarkConfig, CVConfig, FitConfig
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
from microtome.config.predicting import PredictConfig
from microtome.config.pretraining import HiDiscConfig, OrdinalConfig, SlideSslConfig
from microtome.config.probing import ProbeConfig
from microtome.config.slide_vectors import EncodeSlidesConfig
from microtome.config.srh import ScoreConfig, SrhConvertConfig, SrhStainConfig
from microtome.config.tasks import TasksConfig

__all__ = [
    "BenchmarkConfig",
    "CVConfig",
    "ConvertConfig",
    "EncodeSlidesConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "FeatureConfig",
    "FitConfig",
    "FormatName",
    "HiDiscConfig",
    "InspectConfig",
    "Options",
    "OrdinalConfig",
    "PredictConfig",
    "ProbeConfig",
    "ResultsConfig",
    "RunConfig",
    "ScoreConfig",
    "SlideOptions",
    "SlideSslConfig",
    "SrhConvertConfig",
    "SrhStainConfig",
    "TasksConfig",
    "TileConfig",
    "TissueConfig",
    "explain",
    "read_bytes",
    "resolve",
]
