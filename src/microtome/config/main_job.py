"""Settings of the main job and of its stages.

Each group of fields is one class; a verb's class is the groups that it uses.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from microtome.config.base import Options, read_bytes
from microtome.errors import ConfigError


class SlideOptions(Options):
    """Which slides, and how to see them.

    Attributes:
        slides: Slide files, folders of slides, or patterns such as ``slides/*.svs``.
        cohort: Table (CSV) with columns slide_id, path and, as far as known, mpp, patient_id and labels.
        mpp: Resolution of slides whose metadata does not say it, µm per level-0 pixel.
        override_mpp: Let mpp win over plausible metadata.
        reader: Force one reader: auto, direct (decodes tiles of JPEG itself, equal to OpenSlide), openslide, tifffile,
            image, or cucim (where it is installed; auto never takes it).
        channels: One or three channels to see as grey or RGB, names or numbers: 0,2,1.
        window: Values that become 0 and 255, for data that is not 8-bit: LOW,HIGH.
    """

    slides: tuple[str, ...] = ()
    cohort: Path | None = None
    mpp: float | None = Field(default=None, gt=0)
    override_mpp: bool = False
    reader: Literal["auto", "direct", "openslide", "tifffile", "image", "cucim"] = "auto"
    channels: str | None = None
    window: str | None = None

    @field_validator("channels", "window", mode="before")
    @classmethod
    def _join_list(cls, value: object) -> object:
        """A YAML list says the same as text with commas."""
        return ",".join(str(v) for v in value) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _view_is_readable(self) -> "SlideOptions":
        _ = self.channel_names, self.window_range
        return self

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """The channels to see, or None."""
        if self.channels is None:
            return None
        names = tuple(name.strip() for name in self.channels.split(","))
        if len(names) not in (1, 3) or not all(names):
            raise ConfigError(f"channels must name one or three channels, such as 0,2,1. Got {self.channels!r}.")
        return names

    @property
    def window_range(self) -> tuple[float, float] | None:
        """The values that become 0 and 255, or None."""
        if self.window is None:
            return None
        parts = self.window.split(",")
        try:
            low, high = (float(part) for part in parts)
        except ValueError:
            low = high = 0.0
        if not low < high:
            raise ConfigError(f"window must be two rising numbers, such as 0,4095. Got {self.window!r}.")
        return low, high

    @model_validator(mode="after")
    def _mpp_to_override(self) -> "SlideOptions":
        if self.override_mpp and self.mpp is None and self.cohort is None:
            raise ConfigError(
                "override_mpp needs an mpp to win with. Pass mpp (--mpp) or a cohort table with an mpp column."
            )
        return self


class OutputOptions(Options):
    """Where results go, and how the work is shown.

    Attributes:
        out: Output folder; the same folder may be used again, and by several processes at once.
        overwrite: Redo what is there but was made with other settings, or is damaged.
        workers: Threads that read and decode; None for one per core.
        quiet: Print nothing but errors and the closing summary.
    """

    out: Path = Path("out")
    overwrite: bool = False
    workers: int | None = Field(default=None, ge=1)
    quiet: bool = False


class TissueOptions(Options):
    """How tissue is found.

    Attributes:
        tissue_method: auto, otsu (HistoPrep), saturation (CLAM) or masked-otsu (MONAI).
        tissue_parameters: Parameters of that method, for example sigma or preset.
        tissue_from: Take outlines instead of finding them: a folder of <slide_id>.geojson or <slide_id>.png, or one
            file for one slide.
        allow_empty: Let slides without tissue pass, with no tiles, instead of failing.
    """

    tissue_method: str = "auto"
    tissue_parameters: dict[str, Any] = Field(default_factory=dict)
    tissue_from: Path | None = None
    allow_empty: bool = False


class TileOptions(Options):
    """How tiles are laid.

    Attributes:
        tile_px: Side of a tile, in output pixels; None for what the encoder was made for.
        tile_mpp: Resolution of a tile, µm per pixel; None for what the encoder was made for.
        level: Lay tiles in this pyramid level's own pixels instead of at a resolution; needs no mpp.
        stride_px: Distance between tiles, in output pixels; None for tile_px (no overlap).
        min_tissue: Least share of a tile that must be tissue, 0..1.
        anchor: Origin of the grid: the slide's corner, or the corner of the tissue.
        bounds: Keep tiles inside of the slide (in), or also those that reach out (pad).
        decode: How JPEG is decoded where tiles are of lower resolution than the slide's pixels: exact, or dct, which is
            quicker and differs by one or two grey levels on average; only where the reader is direct.
        save_tiles: Write tile images too, in HistoPrep's layout.
        tile_format: Format of tile images.
        tile_quality: JPEG quality of tile images, 1..100.
        tile_passthrough: Where a tile is exactly one JPEG tile of the slide's file and is not resampled, write the
            file's own bytes, which lose nothing (auto), or encode every tile image alike (never).
        quality_flags: Measure blur, pen, black and white shares of each tile and keep them with the tiles. Extraction
            measures what it reads; `microtome tile` must read every tile for it, so there it is off by default.
    """

    tile_px: int | None = Field(default=None, ge=8, le=16384)
    tile_mpp: float | None = Field(default=None, gt=0)
    level: int | None = Field(default=None, ge=0)
    stride_px: int | None = Field(default=None, ge=1)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    anchor: Literal["slide", "tissue"] = "slide"
    bounds: Literal["in", "pad"] = "in"
    decode: Literal["exact", "dct"] = "exact"
    save_tiles: bool = False
    tile_format: Literal["jpeg", "png"] = "jpeg"
    tile_quality: int = Field(default=80, ge=1, le=100)
    tile_passthrough: Literal["auto", "never"] = "auto"
    quality_flags: bool = False

    @model_validator(mode="after")
    def _one_scale(self) -> "TileOptions":
        if self.level is not None and self.tile_mpp is not None:
            raise ConfigError("level and tile_mpp both set the scale of tiles. Pass one of them.")
        return self


class EncoderOptions(Options):
    """What turns tiles into vectors.

    Attributes:
        encoder: Name of the encoder; `microtome encoders` lists them.
        weights: Weights file in place of the published one; "none" fills the network by rule, for trying things out:
            such features mean nothing.
        device: auto, cpu, cuda, cuda:0, mps. Several of one kind, cuda:0,cuda:1, get a process each and share slides.
        precision: fp32, bf16 or fp16; None for what is best on the device.
        runtime: What runs networks: torch, openvino (CPUs; an extra) or auto, the faster one.
        batch_size: Tiles per batch; None for 64, and on a GPU for as many as fit, as far as memory holds them. A batch
            that does not fit into a GPU's memory is halved there until it does.
        memory: Budget for decoded tiles in flight, for example 512M or 2G.
        n_tiles: Draw at most this many tiles of each slide; None for all.
        seed: Decides drawn tiles, clusters and UMAP.
        min_coverage: Least share of a slide's tiles that must be readable for its features to stand, 0..1.
        allow_mpp_mismatch: Take tiles whose resolution differs by more than 10 % from what the encoder was made for;
            that is recorded with the features.
    """

    encoder: str = "texture"
    weights: Literal["none"] | Path | None = None
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    batch_size: int | None = Field(default=None, ge=1)
    memory: str = "512M"
    n_tiles: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    min_coverage: float = Field(default=0.9, ge=0, le=1)
    allow_mpp_mismatch: bool = False

    @model_validator(mode="after")
    def _can_be_read(self) -> "EncoderOptions":
        _ = self.memory_bytes, self.devices
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one by one."""
        names = tuple(name.strip() for name in self.device.split(","))
        if not all(names):
            raise ConfigError(f"device must be a device, or several with commas: cuda:0,cuda:1. Got {self.device!r}.")
        kinds = {name.partition(":")[0] for name in names}
        if len(names) > 1 and (len(kinds) > 1 or kinds & {"auto", "mps"} or "cuda" in names):
            raise ConfigError(
                f"Several devices must be of one kind and said by number, such as cuda:0,cuda:1. Got {self.device!r}."
            )
        return names

    @property
    def memory_bytes(self) -> int:
        """The budget in bytes."""
        return read_bytes(self.memory)


class ClusterOptions(Options):
    """How features are grouped.

    Attributes:
        n_clusters: Number of k-means clusters; fewer are made where there are too few tiles only if asked for.
        umap_points: Number of tiles in the UMAP picture; 0 for none.
    """

    n_clusters: int = Field(default=8, ge=2, le=1024)
    umap_points: int = Field(default=3000, ge=0)


class ReportOptions(Options):
    """How results are drawn.

    Attributes:
        thumbnail_px: Longest side of thumbnails, in pixels.
    """

    thumbnail_px: int = Field(default=1024, ge=64, le=8192)


class SuppliedOptions(Options):
    """Tiles that somebody else laid or cut, and the folders in which features go.

    Attributes:
        coords: Take tiles from coordinate files instead of laying them: a folder of HistoSSL's coords.npy, CLAM's or
            Trident's patches .h5 or HistoPrep's outputs, or one such file for one slide.
        sampling: Which tiles n_tiles draws: slide (from each slide by itself, by seed), first (the first ones), or
            histossl (as its script does: one generator, seeded with 42, over all slides in turn).
        tiles: Take a folder of tile images instead of slides.
        tiles_layout: What that folder is: imagefolder (a folder per class), nct-crc, camelyon17-wilds, histoprep
            (a folder per slide), or auto.
        assume_card_mpp: Take the resolution that the encoder was made for as that of tile images; --mpp says it.
        layout: Where features go and in which form: microtome, or HistoSSL's folders and .npy files.
    """

    coords: Path | None = None
    sampling: Literal["slide", "first", "histossl"] = "slide"
    tiles: Path | None = None
    tiles_layout: Literal["auto", "imagefolder", "nct-crc", "camelyon17-wilds", "histoprep"] = "auto"
    assume_card_mpp: bool = False
    layout: Literal["microtome", "histossl"] = "microtome"


# Pydantic lists the fields of the last base first; help and printed files follow that order.


class TissueConfig(ReportOptions, TissueOptions, OutputOptions, SlideOptions):
    """Settings of `microtome tissue`."""


class TileConfig(TileOptions, TissueConfig):
    """Settings of `microtome tile`."""


class FeatureConfig(EncoderOptions, TileConfig):
    """Settings of every verb that makes features of slides.

    Attributes:
        quality_flags: Measure blur, pen, black and white shares of each tile and keep them with the tiles.
    """

    quality_flags: bool = True


class ExtractConfig(SuppliedOptions, FeatureConfig):
    """Settings of `microtome extract`: of slides on which tiles are laid, or of tiles that are supplied."""

    @model_validator(mode="after")
    def _supplied_once(self) -> "ExtractConfig":
        if self.coords is not None and self.tiles is not None:
            raise ConfigError("coords are tiles of slides, tiles are images. Pass one of them.")
        if self.tiles is not None and self.slides:
            raise ConfigError(
                f"tiles are read without slides. Got the slides {', '.join(self.slides)}. Leave them out."
            )
        if self.layout == "histossl" and self.coords is None and self.tiles is None:
            raise ConfigError("layout histossl needs coords (a folder of coords.npy) or tiles (a folder of images).")
        for name, of in (("tiles_layout", "tiles"), ("assume_card_mpp", "tiles"), ("sampling", "coords")):
            if getattr(self, of) is None and self._is_set(name):
                raise ConfigError(f"{name} is a setting of {of}. Pass {of}, or leave it out.")
        if self.sampling == "histossl" and self.seed not in (0, 42):
            raise ConfigError(f"sampling histossl has the seed 42, as its script has. Got {self.seed}. Leave it out.")
        return self

    @model_validator(mode="after")
    def _all_settings_count(self) -> "ExtractConfig":
        """Settings that decide where tiles lie decide nothing where tiles are supplied."""
        if not self.is_supplied:
            return self
        groups: tuple[type[Options], ...] = (TissueOptions, TileOptions, ReportOptions)
        idle = {name for group in groups for name in group.model_fields if name not in ("tile_px", "quality_flags")}
        if self.tiles is not None:
            idle |= SlideOptions.model_fields.keys() - {"slides", "mpp"}
        given = sorted(name for name in idle if self._is_set(name))
        if given:
            source = "coords" if self.tiles is None else "tiles"
            raise ConfigError(f"With {source} the setting(s) {', '.join(given)} decide nothing. Leave them out.")
        return self

    def _is_set(self, name: str) -> bool:
        """Whether a setting is another than its default."""
        field = type(self).model_fields[name]
        return bool(getattr(self, name) != field.get_default(call_default_factory=True))

    @property
    def is_supplied(self) -> bool:
        """Whether tiles are supplied, so that none are laid."""
        return self.coords is not None or self.tiles is not None


class RunConfig(ClusterOptions, FeatureConfig):
    """Settings of `microtome run`: all stages and the report."""


class InspectConfig(RunConfig):
    """Settings of `microtome inspect`: those of the run that it is to foresee, and some of its own.

    Attributes:
        measure: Time disk, decoding and the encoder on these slides and predict hours, GB and the bottleneck.
        csv: Write the table there too.
        layout: slides, or histossl: a folder with HistoSSL's raw and preprocessed, whose structure is checked (it
            stands where slides do; of the other settings only csv counts).
    """

    measure: bool = False
    csv: Path | None = None
    layout: Literal["slides", "histossl"] = "slides"


FormatName = Literal["microtome", "clam-h5", "clam-pt", "histossl", "histoencoder", "safetensors", "tiles-npy"]
"""Formats of feature files; docs/formats.md says what each holds."""


class ConvertConfig(SlideOptions):
    """Settings of `microtome convert`.

    Attributes:
        source: File or folder of features.
        from_: What they are; None to tell it from the files.
        to: What to make of them.
        out: Output folder; the same folder may be used again, and by several processes at once.
        coords: Where tiles lie, for files that do not say it: a folder of CLAM's or Trident's patches .h5, HistoSSL's
            coords.npy or HistoPrep's outputs, or one such file.
        tile_px: Side of a tile, in pixels of its DeepZoom level, for HistoSSL's files.
        dtype: Of features: float32 or float16; None for what the format is usually written with. Values are rounded
            only if asked for here.
        overwrite: Replace what is there and holds something else, or is damaged.
        quiet: Print nothing but errors and the closing summary.
    """

    source: Path = Path("features")
    from_: FormatName | None = None
    to: FormatName = "microtome"
    out: Path = Path("out")
    coords: Path | None = None
    tile_px: int | None = Field(default=None, ge=1, le=16384)
    dtype: Literal["float32", "float16"] | None = None
    overwrite: bool = False
    quiet: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_as_the_flag(cls, values: Any) -> Any:  # noqa: ANN401 - whatever was given
        """A file of settings may say ``from``, which no name in Python can be."""
        if not isinstance(values, dict) or "from" not in values:
            return values
        others = {name: value for name, value in values.items() if name != "from"}
        return {"from_": values["from"], **others}
