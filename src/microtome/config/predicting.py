"""Settings of the verbs that use a trained model: `predict` and `heatmap`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from microtome.config.main_job import SlideOptions
from microtome.errors import ConfigError

MAP_KINDS = ("attention", "attribution")


class PredictConfig(SlideOptions):
    """Settings of `microtome predict` and `microtome heatmap`.

    Attributes:
        model: Folder that `microtome fit` wrote.
        slides: A folder of features, an output folder that has them, or slide files, folders of slides or patterns.
        out: Output folder; slides leave their tissue, tiles and features there too.
        maps: Maps of tiles to draw: attention, attribution, both with a comma, or none.
        baseline: What attributions are measured from: the mean of the training tiles, the zero vector, or auto (the
            mean, where the model has it).
        tolerance: Share of a logit's change that the sum of the attributions may miss.
        geojson: What QuPath gets: tiles with their values (tiles), or nothing (none).
        thumbnails: Folder of thumbnails to draw on; None for those beside the features, and an empty canvas where
            there are none.
        trust_features: Take features that do not say how they were made, where they contradict nothing.
        tissue_method: How tissue is found on slides; None for how it was found for the model.
        tissue_from: Take outlines instead of finding them: a folder of <slide_id>.geojson or .png, or one file.
        min_tissue: Least share of a tile that must be tissue, 0..1; None for the model's.
        weights: Weights file of the model's encoder, in place of the published one.
        device: auto, cpu, cuda, cuda:0, mps.
        precision: Of the encoder: fp32, bf16 or fp16; None for the model's.
        runtime: What runs the encoder: torch, openvino or auto.
        batch_size: Tiles per batch of the encoder.
        memory: Budget for decoded tiles in flight, for example 512M or 2G.
        min_coverage: Least share of a slide's tiles that must be readable for its prediction to stand, 0..1.
        thumbnail_px: Longest side of thumbnails, in pixels.
        workers: Threads that read and decode; None for one per core.
        overwrite: Redo what is there but was made with other settings, or is damaged.
        quiet: Print nothing but errors and the closing summary.
    """

    model: Path = Path("model")
    out: Path = Path("out")
    maps: tuple[str, ...] = MAP_KINDS
    baseline: Literal["auto", "mean", "zero"] = "auto"
    tolerance: float = Field(default=0.01, gt=0, le=0.5)
    geojson: Literal["tiles", "none"] = "tiles"
    thumbnails: Path | None = None
    trust_features: bool = False
    tissue_method: str | None = None
    tissue_from: Path | None = None
    min_tissue: float | None = Field(default=None, ge=0, le=1)
    weights: Literal["none"] | Path | None = None
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    batch_size: int = Field(default=64, ge=1)
    memory: str = "512M"
    min_coverage: float = Field(default=0.9, ge=0, le=1)
    thumbnail_px: int = Field(default=1024, ge=64, le=8192)
    workers: int | None = Field(default=None, ge=1)
    overwrite: bool = False
    quiet: bool = False

    @field_validator("maps", mode="before")
    @classmethod
    def _maps_from_text(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was given
        """Names with commas between them, in one text or several; ``none`` alone for no map."""
        parts = (value,) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        names = tuple(dict.fromkeys(n.strip() for part in parts for n in str(part).split(",") if n.strip()))
        if names in ((), ("none",)):
            return ()
        if any(name not in MAP_KINDS for name in names):
            raise ConfigError(f"maps are {', '.join(MAP_KINDS)}, or none alone. Got {value!r}.")
        return names

    @model_validator(mode="after")
    def _memory_is_a_size(self) -> "PredictConfig":
        from microtome.config.base import read_bytes

        _ = read_bytes(self.memory)
        return self
