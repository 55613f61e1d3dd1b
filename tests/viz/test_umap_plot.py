import io
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microtome.errors import ConfigError
from microtome.viz import umap_plot
from microtome.viz.palette import categorical_colors
from microtome.viz.umap_plot import draw_umap

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def xy() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((120, 2)).astype(np.float32)


@pytest.fixture
def clusters() -> np.ndarray:
    return np.arange(120) % 3


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def texts(data: bytes) -> list[str]:
    root = ET.fromstring(data)  # noqa: S314 - our own picture
    return ["".join(t.itertext()).strip() for t in root.iter(f"{SVG}text")]


def has_color(image: np.ndarray, color: np.ndarray) -> bool:
    return bool((np.abs(image.astype(int) - color).max(axis=2) <= 2).sum() > 20)


def test_png_has_the_size_and_the_clusters_colours(xy: np.ndarray, clusters: np.ndarray) -> None:
    image = picture(draw_umap(xy, clusters, width_px=600))
    assert image.shape[1] == 600
    for k in range(5):
        assert has_color(image, categorical_colors(5)[k]) == (k < 3)
    assert picture(draw_umap(xy, clusters, ["a"] * 120, width_px=1200)).shape[1] == 1200


def test_svg_says_what_it_shows(xy: np.ndarray, clusters: np.ndarray) -> None:
    slides = [f"slide {i % 2}" for i in range(120)]
    found = texts(draw_umap(xy, clusters, slides, image_format="svg", cluster_names={1: "stroma"}))
    for text in ("UMAP of 120 tiles, by cluster", "UMAP of 120 tiles, by slide", "UMAP 1", "UMAP 2"):
        assert text in found
    assert [t for t in found if t in {"0", "1", "2", "stroma", "slide 0", "slide 1"}] == [
        "0", "stroma", "2", "slide 0", "slide 1",
    ]  # fmt: skip


def test_points_are_one_picture_in_the_svg(xy: np.ndarray, clusters: np.ndarray) -> None:
    many = np.random.default_rng(1).standard_normal((4000, 2)).astype(np.float32)
    data = draw_umap(many, np.arange(4000) % 8, image_format="svg")
    assert len(list(ET.fromstring(data).iter(f"{SVG}image"))) == 1  # noqa: S314 - our own picture
    assert b"http" not in data.replace(b"http://www.w3.org", b"").replace(b"http://purl.org", b"").replace(
        b"http://creativecommons.org", b""
    ).replace(b"https://matplotlib.org", b"")


@pytest.mark.parametrize("image_format", ["png", "svg"])
def test_the_same_points_give_the_same_bytes(xy: np.ndarray, clusters: np.ndarray, image_format: Any) -> None:
    slides = ["a", "b"] * 60
    first = draw_umap(xy, clusters, slides, image_format=image_format)
    assert first == draw_umap(xy, clusters, slides, image_format=image_format)
    assert first != draw_umap(xy[::-1].copy(), clusters, slides, image_format=image_format)


def test_empty_clusters_are_not_in_the_legend(xy: np.ndarray) -> None:
    found = texts(draw_umap(xy, np.where(np.arange(120) < 60, 0, 7), image_format="svg"))
    assert [t for t in found if t.isdigit()] == ["0", "7"]


def test_a_long_legend_names_the_commonest_and_counts_the_rest(xy: np.ndarray, clusters: np.ndarray) -> None:
    slides = [f"s{min(i, 99):03d}" for i in range(120)]  # s099 has 21 tiles, the others one
    found = texts(draw_umap(xy, clusters, slides, image_format="svg"))
    named = [t for t in found if t.startswith("s0")]
    assert len(named) == 15
    assert named[-1] == "s099"
    assert "and 85 more" in found


def test_long_names_are_shortened_in_the_middle(xy: np.ndarray, clusters: np.ndarray) -> None:
    name = "TCGA-3L-AA1B-01Z-00-DX1.8923A151-A690-40B7-9E5A-FCBEDFC2394F"
    found = texts(draw_umap(xy, clusters, [name] * 120, image_format="svg"))
    (shown,) = [t for t in found if t.startswith("TCGA")]
    assert len(shown) <= 28
    assert name.startswith(shown.split("…")[0])
    assert name.endswith(shown.split("…")[1])


@pytest.mark.parametrize("name", ["<b>&$x_1$", "_hidden", "切片", "10%", "é ü"])
def test_names_of_any_kind_stay_text(xy: np.ndarray, clusters: np.ndarray, name: str) -> None:
    assert name in texts(draw_umap(xy, clusters, [name] * 120, image_format="svg"))
    assert picture(draw_umap(xy, clusters, [name] * 120)).size > 0


def test_an_unknown_format_is_refused(xy: np.ndarray, clusters: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="png or svg"):
        umap_plot._check(xy, clusters, None, "gif")


def test_one_point() -> None:
    assert picture(draw_umap(np.zeros((1, 2), np.float32), np.array([0]), ["a"])).size > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clusters": np.zeros(3, np.int64)}, "120 positions, 3 clusters"),
        ({"slide_ids": ["a"]}, "1 slide ids"),
        ({"xy": np.zeros((0, 2), np.float32), "clusters": np.zeros(0, np.int64)}, "no tiles"),
        ({"xy": np.full((120, 2), np.nan, np.float32)}, "NaN"),
        ({"clusters": np.full(120, -1)}, "at least 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(xy, clusters, change, match) -> None:
    arguments = {"xy": xy, "clusters": clusters, **change}
    with pytest.raises(ConfigError, match=match):
        draw_umap(**arguments)


def test_matplotlib_keeps_no_figure_and_no_setting(xy: np.ndarray, clusters: np.ndarray) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_umap(xy, clusters)
    assert dict(mpl.rcParams) == before
