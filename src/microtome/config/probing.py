"""Settings of `microtome probe`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from microtome.config.main_job import EncoderOptions, OutputOptions
from microtome.errors import ConfigError


class ProbeConfig(EncoderOptions, OutputOptions):
    """Settings of `microtome probe`.

    Attributes:
        tiles: Folder of labelled tile images, whose features are extracted first: a folder per class, NCT-CRC,
            Camelyon17-WILDS.
        tiles_layout: What that folder is; auto looks.
        mpp: Resolution of tile images, µm per pixel.
        assume_card_mpp: Take the resolution that the encoder was made for.
        tile_px: Resize tile images to this side.
        features: Instead of tiles: an output folder of `microtome extract --tiles`, or a folder with
            tile_features.npy and tile_ids.npy.
        labels: Table (CSV) with columns id and label and, as far as known, split (train, valid, test) and patient, for
            features whose labels are not beside them.
        protocol: reference (HistoSSL's: thirty SGD classifiers on growing portions), or modern (logistic regression
            with a path of penalties, nearest neighbours, nearest centroid, few-shot episodes), or both.
        judge_on: Which split is judged: valid or test; None for valid in the reference protocol, and for test, where
            there is one, in the modern one.
        valid_share: Share of the tiles that are judged where nothing says a split; whole patients, stratified.
        exclude: Classes to leave out, with commas; None for none, and for BACK of NCT-CRC in the reference protocol.
        portions: Shares of the training tiles of the reference protocol, in order.
        knn: Neighbours that vote.
        shots: Tiles per class in few-shot episodes.
        n_episodes: Few-shot episodes.
        n_boot: Resamples behind intervals.
    """

    tiles: Path | None = None
    tiles_layout: Literal["auto", "imagefolder", "nct-crc", "camelyon17-wilds"] = "auto"
    mpp: float | None = Field(default=None, gt=0)
    assume_card_mpp: bool = False
    tile_px: int | None = Field(default=None, ge=8, le=16384)
    features: Path | None = None
    labels: Path | None = None
    protocol: Literal["reference", "modern", "both"] = "both"
    judge_on: Literal["valid", "test"] | None = None
    valid_share: float = Field(default=0.2, gt=0, lt=1)
    exclude: str | None = None
    portions: tuple[float, ...] = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
    knn: int = Field(default=20, ge=1)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    n_episodes: int = Field(default=1000, ge=2)
    n_boot: int = Field(default=1000, ge=100)

    @model_validator(mode="after")
    def _one_source(self) -> "ProbeConfig":
        if self.tiles is not None and self.features is not None:
            raise ConfigError("tiles are images, features are made of such. Pass one of them.")
        if self.features is not None and (idle := self._set_for_tiles()):
            raise ConfigError(f"With features the setting(s) {', '.join(idle)} decide nothing. Leave them out.")
        if any(not 0 < portion <= 1 for portion in self.portions) or not self.portions:
            raise ConfigError(f"portions must be shares in (0, 1]. Got {', '.join(map(str, self.portions))}.")
        if any(shots < 1 for shots in self.shots):
            raise ConfigError(f"shots must be at least 1. Got {', '.join(map(str, self.shots))}.")
        return self

    def _set_for_tiles(self) -> list[str]:
        """Settings of an extraction that are others than their defaults."""
        own = {"tiles_layout", "mpp", "assume_card_mpp", "tile_px", "overwrite"}
        fields = (own | EncoderOptions.model_fields.keys()) - {"seed"}
        return sorted(name for name in fields if getattr(self, name) != type(self).model_fields[name].get_default())

    @property
    def excluded(self) -> tuple[str, ...] | None:
        """Classes to leave out; None where nothing was said."""
        if self.exclude is None:
            return None
        return tuple(name.strip() for name in self.exclude.split(",") if name.strip())
