"""Settings of `microtome encode-slides`."""

from pathlib import Path
from typing import Literal

from microtome.config.base import Options


class EncodeSlidesConfig(Options):
    """Settings of `microtome encode-slides`.

    Attributes:
        features: Folder of features of the tile encoder that the slide encoder was made for.
        slide_encoder: chief, feather-conch-v1.5, feather-uni or feather-uni2-h.
        weights: File in place of the published one; "none" fills the network by rule: such vectors mean nothing.
        out: Output folder; slides that are there already are kept.
        allow_mpp_mismatch: Take tiles whose resolution differs by more than 10 % from what the encoder was made for;
            that is recorded.
        device: auto, cpu, cuda, cuda:0, mps.
        overwrite: Redo what was made with other settings.
        quiet: Print nothing but errors and the closing summary.
    """

    features: Path = Path("features")
    slide_encoder: str = "chief"
    weights: Literal["none"] | Path | None = None
    out: Path = Path("out")
    allow_mpp_mismatch: bool = False
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False
