"""``texture``: the embedded encoder. No weights, no download, no network, no GPU, no torch.

A tile becomes numbers that a histologist could name: how much of which stain, how coarse and how sparse the
pattern is, whether it runs in one direction, how many nuclei of which size and how far apart, how much lumen.
All lengths are in tile pixels; at the card's 0.5 µm/px one pixel is half a micrometre.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from microtome.encoders.base import Card, Encoder
from microtome.errors import ConfigError, EncoderOutputError, ModalityError, TileSizeError

MIN_TILE_PX = 32
"""Least height and width of a tile: one cell of the coarsest texture scale."""


def _stain_features() -> list[tuple[str, str]]:
    rows = []
    for key, name in (("h", "haematoxylin"), ("e", "eosin")):
        rows += [
            (f"{key}_std", f"{name}: standard deviation, OD"),
            (
                f"{key}_asymmetry",
                f"{name}: (q95 + q5 - 2 q50) / (q95 - q5 + 0.02 OD), -1 to 1; > 0 where few pixels are dark",
            ),
        ]
    return [
        *rows,
        ("residual_std", "what neither stain explains: standard deviation, OD"),
        ("h_share", "haematoxylin's share of both stains, 0 to 1; goes to 0.5 as they fall from 0.2 OD to 0"),
        (
            "blue_share",
            "blue's share of the absorption in R, G and B, 0 to 1; goes to 1/3 as their sum falls from 0.2 OD to 0",
        ),
        ("h_e_correlation", "correlation of haematoxylin and eosin, -1 to 1; goes to 0 as either nears the noise"),
        ("od_q5", "optical density (mean of R, G, B): 5th percentile, OD"),
        ("od_q95", "optical density: 95th percentile, OD"),
    ]


def _band_features() -> list[tuple[str, str]]:
    def detail(px: int) -> str:
        return f"detail of a period of {2 * px}-{5 * px} px"

    return [
        (
            "od_over_h_1px",
            "ln(0.01 + root mean square) of single pixels' detail (period 2-4 px) in the optical density of luma, less "
            "that of h_energy_2px",
        ),
        ("od_spread_1px", "that detail: mean magnitude / root mean square, 0 to 1; low if sparse"),
        ("h_energy_2px", f"haematoxylin: ln(0.01 + root mean square) of {detail(2)}, ln OD"),
        *(
            (f"h_rise_{px}px", f"haematoxylin: that of {detail(px)} less that of half the scale")
            for px in (4, 8, 16, 32)
        ),
        *(
            (f"e_over_h_{px}px", f"eosin less haematoxylin: ln(0.01 + root mean square) of {detail(px)}")
            for px in (2, 4, 16)
        ),
        *(
            (
                f"h_skew_{px}px",
                f"haematoxylin, {detail(px)}: cube root of third moment / root mean square; > 0 dark spots",
            )
            for px in (2, 4, 8, 16)
        ),
        *(
            (
                f"h_spread_{px}px",
                f"haematoxylin, {detail(px)}: mean magnitude / root mean square, 0 to 1; low if sparse",
            )
            for px in (4, 16)
        ),
        *((f"h_e_detail_{px}px", f"correlation of haematoxylin and eosin, {detail(px)}, -1 to 1") for px in (2, 8)),
    ]


def _pattern_features() -> list[tuple[str, str]]:
    classes = (
        ("1to2", "1-2 of 8 neighbours darker, adjoining (tip or corner)"),
        ("3to5", "3-5 of 8 neighbours darker, adjoining (edge)"),
        ("6to8", "6-8 of 8 neighbours darker, adjoining (bright corner or speck)"),
        ("mixed", "darker neighbours in more than one run (line, crossing)"),
    )
    return [
        (f"lbp_{key}_{px}px", f"share of {px} px cells with {meaning}, 0 to 1")
        for px in (2, 4, 8)
        for key, meaning in classes
    ]


def _edge_features() -> list[tuple[str, str]]:
    def edges(key: str, px: int, within: int) -> list[tuple[str, str]]:
        what = f"of optical density in {px} px cells"
        return [
            (f"edge_{key}", f"ln(0.01 + mean gradient) {what}, ln OD per cell"),
            (f"coherence_{key}", f"how far edges within {within} px run in one direction, {what}, 0 to 1"),
            (f"direction_{key}", f"how far edges of the whole tile run in one direction, {what}, 0 to 1"),
        ]

    return [*edges("fine", 2, 12), *edges("coarse", 4, 48)]


def _nuclear_features() -> list[tuple[str, str]]:
    return [
        ("nuclei_share", "share of the tile that nuclei cover, 0 to 1"),
        ("nuclei_density", "ln(1 + nuclei per 10 000 px)"),
        ("nuclei_size", "mean over nuclei of ln(area in px); ln 30 where there are none"),
        ("nuclei_size_std", "standard deviation over nuclei of ln(area in px)"),
        ("nuclei_elongation", "mean over nuclei of 1 - short axis / long axis, 0 to 1"),
        ("nuclei_alignment", "how far the nuclei's long axes run in one direction, 0 to 1"),
        ("nuclei_spacing", "mean distance to the nearest nucleus, px, each at most 64; 64 with fewer than 2"),
        (
            "nuclei_regularity",
            "that over what points at random would have; < 1 clumped, > 1 spread; 1 with fewer than 2",
        ),
        ("nuclei_h", "mean haematoxylin in nuclei and in dark areas of any other size, OD; 0 where there are none"),
        ("nuclei_h_std", "standard deviation of haematoxylin there, OD"),
    ]


def _ground_features() -> list[tuple[str, str]]:
    return [
        ("ground_h", "haematoxylin between nuclei and lumen (cytoplasm, fibres, mucin): mean, OD"),
        ("ground_e", "eosin there: mean, OD"),
        ("ground_residual", "what neither stain explains there: mean, OD"),
        ("ground_od_std", "optical density there: standard deviation, OD"),
    ]


def _lumen_features() -> list[tuple[str, str]]:
    return [
        ("white_share", "share of 2 px cells with an OD below 0.2 (lumen, fat, glass), 0 to 1"),
        (
            "white_depth",
            "ln(1 + mean distance of white to what is not, px, each at most 64), in 4 px cells",
        ),
        ("white_pieces", "ln(1 + white areas of at least 30 px per 10 000 px), in 4 px cells"),
        ("dark_share", "ln(1 + percentage of 2 px cells with an OD above 1.5: ink, folds, pigment)"),
    ]


TEXTURE_FEATURES: tuple[tuple[str, str], ...] = (
    *_stain_features(),
    *_band_features(),
    *_pattern_features(),
    *_edge_features(),
    *_nuclear_features(),
    *_ground_features(),
    *_lumen_features(),
)
"""Name and meaning (with unit) of each feature, in the order of the vector."""

_CARD = Card(
    name="texture",
    dim=len(TEXTURE_FEATURES),
    input_px=None,
    tile_px=224,
    mpp=(0.5,),
    size_policy="any",
    modality="brightfield",
    pooling="statistics over the tile's pixels and nuclei",
    precision="fp32",
    revision="3",
    licence="Apache-2.0",
    paper="https://pubmed.ncbi.nlm.nih.gov/11531144/",
    citation=(
        "Colour deconvolution: Ruifrok & Johnston, Anal Quant Cytol Histol 23 (2001) 291-299; band energies: Burt & "
        "Adelson, IEEE Transactions on Communications 31 (1983) 532-540; local binary patterns: Ojala et al., IEEE "
        "TPAMI 24 (2002) 971-987; structure tensor coherence: Bigun & Granlund, ICCV 1987"
    ),
    code="microtome.encoders.texture",
    trained_on=(),
    intended_use=(
        "Research only: grouping and describing tiles of bright-field H&E where no trained encoder is at hand. Not "
        "for diagnosis, not for fluorescence."
    ),
)


class Texture(Encoder):
    """Statistics of colour, texture, edges, nuclei and lumen; see :data:`TEXTURE_FEATURES`.

    Each tile is measured by itself, so its vector never depends on the batch, though a call of OpenCV or NumPy serves
    up to 16 tiles. Those calls release the GIL, so several threads may share one instance and gain by it. Picklable.
    """

    card = _CARD
    device = "cpu"
    precision = "fp32"
    concurrent = True

    def encode(self, images: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "n d"]:
        """Encode a batch of 8-bit RGB tiles of one size.

        Args:
            images: uint8, (n, h, w, 3); h and w at least 32 px. Any n, 0 included.

        Returns:
            Float32, (n, 64), finite; columns as in :data:`TEXTURE_FEATURES`.

        Raises:
            ModalityError: If the images are not (n, h, w, 3) uint8.
            TileSizeError: If tiles are smaller than 32 px.
            EncoderOutputError: If NaN or infinity came out.
        """
        # Here, not above: reading the card must not cost the import of OpenCV and SciPy.
        from microtome.encoders.texture_measures import measure_tiles

        _check(images)
        if not len(images):
            return np.empty((0, self.card.dim), dtype=np.float32)
        features = measure_tiles(images).astype(np.float32)
        finite = np.isfinite(features)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise EncoderOutputError(
                f"Encoder 'texture' gave {features[row, column]} for {TEXTURE_FEATURES[column][0]!r} of tile {row} of "
                "the batch. Report it with the tile."
            )
        return features


def _check(images: Shaped[np.ndarray, "..."]) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        hint = (
            "Add a batch axis: images[None]."
            if images.ndim == 3
            else "Pass --channels (and, unless it is 8-bit, --window LOW,HIGH) to see a slide as bright-field RGB."
        )
        raise ModalityError(
            f"Encoder 'texture' takes bright-field RGB, uint8 (n, h, w, 3). Got {images.dtype} {images.shape}. {hint}"
        )
    if min(images.shape[1:3]) < MIN_TILE_PX:
        raise TileSizeError(
            f"Encoder 'texture' takes tiles of {MIN_TILE_PX} px or more. Got {images.shape[2]}×{images.shape[1]} px. "
            f"Pass --tile-px {MIN_TILE_PX} or more."
        )


class _BuiltIn:
    """How it is loaded."""

    card = _CARD

    def load(self, *, device: str, weights: str | Path | None, precision: str | None, runtime: str = "auto") -> Texture:
        """Load the encoder; refuses what it cannot honour.

        Raises:
            ConfigError: If weights, a device other than the CPU, a precision other than fp32 or a runtime for
                networks are asked for.
        """
        name = self.card.name
        if weights is not None:
            raise ConfigError(f"Encoder {name!r} has no weights. Got --weights {weights}. Leave it out.")
        if device not in ("auto", "cpu"):
            raise ConfigError(f"Encoder {name!r} runs on the CPU only. Got --device {device}. Pass auto or cpu.")
        if precision not in (None, "auto", "fp32"):
            raise ConfigError(f"Encoder {name!r} computes in fp32 only. Got --precision {precision}. Leave it out.")
        if runtime != "auto":
            raise ConfigError(f"Encoder {name!r} is no network. Got --runtime {runtime}. Leave it out.")
        return Texture()


ENCODERS = {"texture": _BuiltIn()}


def features_table() -> str:
    """All features as a Markdown table: column, name, meaning and unit."""
    rows = [f"| {i} | `{name}` | {meaning} |\n" for i, (name, meaning) in enumerate(TEXTURE_FEATURES)]
    return "".join(["| column | name | meaning, unit |\n", "| --- | --- | --- |\n", *rows])
