import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.annotations.geojson import Annotation, read_polygons, write_polygons
from microtome.errors import CorruptOutputError, MissingOutputError
from microtome.storage import write_json
from microtome.tasks.output import OutputFolder, SlideRow, write_slide_rows
from microtome.viz.report import write_report
from microtome.viz.report_colours import distinct_colours
from microtome.viz.report_images import cluster_overlay, data_uri, fit_pictures, read_picture, tile_overlay
from microtome.viz.report_inputs import Frame
from microtome.viz.report_outline import outline_path
from microtome.viz.report_umap import scatter_paths
from tests.viz.report_folder import ATTACK, FRAMES, N_CLUSTERS, UNREADABLE, write_clusters, write_cohort


class Page(HTMLParser):
    """Tags with their attributes, and all text outside of style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._quiet = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self._quiet = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._quiet = False

    def handle_data(self, data):
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        wanted = {k.replace("_", "-"): v for k, v in having.items()}
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def having(self, name: str) -> list[dict[str, str]]:
        return [a for _, a in self.tags if name in a]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort") / "out")


@pytest.fixture
def folder(cohort, tmp_path):
    """A copy of the cohort, to be damaged."""
    shutil.copytree(cohort.root, tmp_path / "out")
    return OutputFolder(tmp_path / "out")


def rows_of(page: Page) -> dict[str, dict[str, str]]:
    """The table's cells by slide and column."""
    found: dict[str, dict[str, str]] = {}
    slide = ""
    for tag, attrs in page.tags:
        if tag == "tr":
            slide = attrs.get("data-slide", "")
        if slide and "data-column" in attrs:
            found.setdefault(slide, {})[attrs["data-column"]] = attrs["data-value"]
    return found


def csv_rows(folder: OutputFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(folder.slides_csv.read_text(encoding="utf-8"))))


def test_every_number_is_that_of_slides_csv(folder):
    page = Page(write_report(folder.root))
    shown = rows_of(page)
    columns = ("slide_id", "status", "width", "height", "mpp", "mpp_source", "tissue_mm2", "n_tiles", "n_unreadable",
               "seconds", "reader")  # fmt: skip
    expected = csv_rows(folder)
    assert list(shown) == [row["slide_id"] for row in expected]
    for row in expected:
        assert shown[row["slide_id"]] == {name: row[name] for name in columns}
    totals = {a["data-total"]: a["data-value"] for a in page.having("data-total")}
    assert int(totals["n_tiles"]) == sum(int(r["n_tiles"] or 0) for r in expected)
    assert float(totals["tissue_mm2"]) == pytest.approx(sum(float(r["tissue_mm2"] or 0) for r in expected), rel=1e-15)
    figures = {a["data-figure"]: a["data-value"] for a in page.having("data-figure")}
    assert figures["slides"] == "5"
    assert figures["n_unreadable"] == "2"
    assert float(figures["seconds"]) == pytest.approx(1.25 + 20.5 + 1203.25 + 11.0)
    assert "2 done, 1 skipped, 1 unfinished, 1 failed" in page.text.replace("\u00a0", " ")


def test_encoder_failures_versions_settings_and_ignored_files_are_told(folder):
    page = Page(write_report(folder.root))
    text = page.text
    assert "Ruifrok & Johnston, Anal Quant Cytol Histol 23 (2001) 291-299" in text
    assert "Apache-2.0" in text
    assert "Cohort <A>" in text
    assert "For research use only" in text
    assert "TruncatedSlideError" in text
    assert text.index("1 slide failed") < text.index("Tissue, mm²")
    assert json.loads(folder.run_json.read_text())["versions"]["numpy"] in text
    assert "umap_points: 3000" in text
    assert f"/data/{ATTACK}.txt" in text
    assert "1 file ignored" in text


def test_what_a_stranger_wrote_stays_text(folder):
    path = write_report(folder.root)
    page = Page(path)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not page.all("img", src="x")
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert page.text.count(ATTACK) >= 4  # in a path, a reason, a note and an ignored file, shown as they are
    assert "49" not in page.text.split("{{", 1)[1][:12]  # not evaluated as a template either


def test_nothing_is_fetched_and_only_its_own_script_may_run(folder):
    source = write_report(folder.root).read_text(encoding="utf-8")
    page = Page(folder.report)
    assert all(a["src"].startswith("data:image/") for a in page.having("src"))
    assert all(a["href"].startswith(("#", "data:,", "https://example.org/paper")) for a in page.having("href"))
    assert not re.search(r"url\(|@import", source)
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy["content"].split("script-src")[1]


def test_pictures_have_words_and_slides_their_layers(folder):
    page = Page(write_report(folder.root))
    pictures = page.all("img")
    assert len(pictures) == 3 * 3 + N_CLUSTERS
    assert all(a["alt"] for a in pictures)
    assert {a["data-slide"] for a in page.all("article", **{"class": "card"})} == set(FRAMES)


def test_equal_folders_give_equal_bytes(folder, tmp_path):
    first = write_report(folder.root).read_bytes()
    shutil.copytree(folder.root, tmp_path / "elsewhere")
    assert write_report(tmp_path / "elsewhere").read_bytes() == first
    assert write_report(folder.root).read_bytes() == first


@pytest.mark.parametrize(
    "gone",
    ["run.json", "thumbnails", "tissue", "tiles", "clusters", "clusters/umap.parquet", "clusters/summary.csv",
     "clusters/A12.parquet", "clusters/montage_1.jpg", "thumbnails/A12.json", "thumbnails/A12.plain.jpg"],
)  # fmt: skip
def test_anything_but_slides_csv_may_be_absent(folder, gone):
    path = folder.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report(folder.root))
    assert set(rows_of(page)) == {row["slide_id"] for row in csv_rows(folder)}
    kinds = {"clusters": "Tiles by likeness", "clusters/umap.parquet": "Tiles by likeness", "thumbnails": "Enlarge"}
    if gone in kinds:
        assert kinds[gone] not in page.text
    if gone == "run.json":
        assert "run.json is not there" in page.text
        assert "For research use only" in page.text


def test_a_run_in_which_all_failed(tmp_path):
    out = tmp_path / "out"
    rows = [SlideRow(f"S{i}", f"/data/S{i}.svs", "failed", error="Slide is empty.") for i in range(3)]
    write_slide_rows(out / "slides.csv", rows)
    write_json(out / "run.json", {"microtome": "0.1.0"})
    page = Page(write_report(out))
    assert "3 slides failed" in page.text
    assert page.text.count("Slide is empty.") == 3  # known from slides.csv alone
    assert "Tissue and clusters" not in page.text


def test_no_slides_at_all(tmp_path):
    write_slide_rows(tmp_path / "slides.csv", [])
    assert "names no slide" in Page(write_report(tmp_path)).text


def test_no_table_no_report(tmp_path):
    with pytest.raises(MissingOutputError, match=r"slides\.csv"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("slides.csv", b"slide_id,path\nA,b\n"),
        ("slides.csv", b"\xff\xfe\x00"),
        ("slides.csv", b""),
        ("run.json", b"{"),
        ("run.json", b"[1]"),
        ("run.json", b'{"seconds": {"tissue": NaN}}'),
        ("run.json", b"\xff"),
    ],
)
def test_damaged_tables_are_refused(folder, name, content):
    (folder.root / name).write_bytes(content)
    with pytest.raises(CorruptOutputError, match=name):
        write_report(folder.root)


@pytest.mark.parametrize("cell", ["many", "nan", "1e999"])
def test_a_cell_that_is_no_number_is_refused(folder, cell):
    text = folder.slides_csv.read_text(encoding="utf-8").replace("123.45678901234", cell)
    folder.slides_csv.write_text(text, encoding="utf-8")
    with pytest.raises(CorruptOutputError, match="tissue_mm2"):
        write_report(folder.root)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thumbnails/A12.plain.jpg", b"no picture"),
        ("thumbnails/A12.json", b'{"box": [0, 0, 0, 5], "size": [1, 1]}'),
        ("thumbnails/A12.json", b"["),
        ("tissue/A12.geojson", b'{"type": "Nonsense"}'),
        ("tiles/A12.h5", b"\x89HDF"),
        ("clusters/A12.parquet", b"PAR1"),
        ("clusters/montage_0.jpg", b""),
        ("clusters/umap.parquet", b"PAR1"),
        ("clusters/summary.csv", b"cluster,n_tiles,share,n_slides\n3,1,1,1\n"),
        ("clusters/summary.csv", b"cluster,n_tiles,share,n_slides\n0,x,1,1\n"),
    ],
)
def test_damage_to_one_file_is_named_and_the_rest_is_drawn(folder, name, content):
    (folder.root / name).write_bytes(content)
    page = Page(write_report(folder.root))
    assert Path(name).name in page.text
    cards = {a["data-slide"] for a in page.all("article", **{"class": "card"})}
    assert cards == set(FRAMES)


def test_a_truncated_picture_is_not_embedded(folder):
    path = folder.plain_thumbnail("A12")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CorruptOutputError, match="whole picture"):
        read_picture(path)
    assert "A12.plain.jpg" in Page(write_report(folder.root)).text


def test_a_slide_id_cannot_lead_out_of_the_folder(folder, tmp_path):
    (tmp_path / "secret.json").write_text('{"box": [0, 0, 5, 5], "size": [5, 5]}', encoding="utf-8")
    shutil.copy(folder.plain_thumbnail("A12"), tmp_path / "secret.plain.jpg")
    write_slide_rows(folder.slides_csv, [SlideRow("../../secret", "x", "done")])
    page = Page(write_report(folder.root))
    assert not page.all("img", **{"class": "picture"})


def test_clusters_of_a_slide_that_failed_now_are_left_out(folder):
    text = folder.slides_csv.read_text(encoding="utf-8").replace("A12.svs,done", "A12.svs,failed")
    folder.slides_csv.write_text(text, encoding="utf-8")
    page = Page(write_report(folder.root))
    maps = [a["alt"] for a in page.all("img") if "in the colours of their clusters" in a["alt"]]
    assert len(maps) == 2
    assert not any("A12" in alt for alt in maps)


def test_stale_clusters_are_left_out_and_said(folder):
    boxes = np.array([[0, 0, 240, 240]])
    write_clusters(OutputFolder(folder.root / "old"), {"A12": boxes}, made_from="k0")
    shutil.copy(folder.root / "old" / "clusters" / "A12.parquet", folder.clusters / "A12.parquet")
    shutil.copy(folder.root / "old" / "clusters" / "umap.parquet", folder.clusters / "umap.parquet")
    page = Page(write_report(folder.root))
    assert "Its clusters are those of an earlier run" in page.text
    assert "The UMAP in the folder is of earlier clusters" in page.text
    assert "By slide" not in page.text


def test_clusters_that_the_last_run_did_not_make_are_said_to_be_old(folder):
    record = json.loads(folder.run_json.read_text())
    del record["seconds"]["clusters"]
    write_json(folder.run_json, record)
    assert "clusters are those of an earlier run" in Page(write_report(folder.root)).text


def test_unreadable_tiles_are_marked_and_named(folder):
    page = Page(write_report(folder.root))
    scale = 512 / 4000
    drawn = [[float(rect[name]) for name in ("x", "y", "width", "height")] for rect in page.all("rect")]
    expected = np.array(UNREADABLE) * scale
    np.testing.assert_allclose(drawn, expected, atol=0.01)
    assert "2 unreadable tiles: where and why" in page.text
    assert "JPEG <broken>" in page.text


def points_of(path: str) -> list[np.ndarray]:
    """Rings of SVG path data of M and Z."""
    rings = [ring for ring in path.replace("Z", "").split("M") if ring]
    return [np.array(ring.split(), float).reshape(-1, 2) for ring in rings]


@pytest.mark.parametrize("slide_id", list(FRAMES))
def test_outline_runs_within_a_pixel_of_the_polygon(folder, slide_id):
    box, size = FRAMES[slide_id]
    frame = Frame((box.x, box.y, box.width, box.height), (size.width, size.height))
    rings = points_of(outline_path(folder.tissue(slide_id), frame))
    truth = shapely.MultiPolygon([a.polygon for a in read_polygons(folder.tissue(slide_id))])
    scale = np.array([size.width / box.width, size.height / box.height])
    truth = shapely.transform(truth, lambda xy: (xy - (box.x, box.y)) * scale)
    drawn = shapely.MultiLineString([np.vstack([ring, ring[:1]]) for ring in rings])
    assert len(rings) == 3  # section, hole, fragment
    assert shapely.hausdorff_distance(drawn, truth.boundary, densify=0.01) < 1.0


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_a_full_resolution_staircase_becomes_light_and_stays_near(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 1500, endpoint=False)
    radius = 300 + 60 * np.sin(3 * angles + rng.random()) + 25 * np.sin(13 * angles)
    ring = np.rint(500 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    stairs = np.repeat(ring, 2, axis=0)
    stairs[1::2, 0] = np.roll(ring, -1, axis=0)[:, 0]  # right angles only
    polygon = shapely.make_valid(shapely.Polygon(stairs).buffer(0))
    parts = [p for p in shapely.get_parts(polygon) if isinstance(p, shapely.Polygon) and p.area > 4]
    path = tmp_path_factory.mktemp("stairs") / "s.geojson"
    write_polygons(path, [Annotation(part) for part in parts])
    drawn = points_of(outline_path(path, Frame((0, 0, 1000, 1000), (1000, 1000))))
    lines = shapely.MultiLineString([np.vstack([ring, ring[:1]]) for ring in drawn])
    truth = shapely.MultiPolygon(parts)
    assert shapely.hausdorff_distance(lines, truth.boundary) < 1.5  # 2 are promised
    assert sum(map(len, drawn)) < 0.5 * len(shapely.get_coordinates(truth))


def test_map_shows_each_tile_where_it_lies_in_its_colour():
    frame = Frame((100, 200, 4000, 2000), (400, 200))
    boxes = np.array([[100, 200, 500, 500], [600, 200, 500, 500], [3600, 1700, 500, 500], [-900, 200, 500, 500]])
    colours = distinct_colours(3)
    image = Image.open(io.BytesIO(cluster_overlay(frame, boxes[:3], np.array([0, 2, 1]), colours))).convert("RGBA")
    pixels = np.asarray(image)
    assert image.size == (400, 200)
    for (x, y), cluster in {(25, 25): 0, (49, 49): 0, (50, 25): 2, (399, 199): 1}.items():
        assert tuple(pixels[y, x]) == (*colours[cluster], 255)
    assert pixels[100, 200, 3] == 0
    assert pixels[..., 3].astype(bool).sum() == 3 * 50 * 50


def test_overlapping_tiles_are_shown_by_their_middles_and_seams_closed():
    frame = Frame((0, 0, 1000, 400), (1000, 400))
    boxes = np.array([[x, 0, 400, 400] for x in (0, 200, 400, 600)])
    found = cluster_overlay(frame, boxes, np.array([0, 1, 0, 1]), distinct_colours(2))
    pixels = np.asarray(Image.open(io.BytesIO(found)).convert("RGBA"))
    colours = [(*c, 255) for c in distinct_colours(2)]
    assert [tuple(pixels[200, x]) for x in (101, 299, 301, 499, 501, 699)] == [colours[k] for k in (0, 0, 1, 1, 0, 0)]
    rounded = np.array([[0, 0, 100, 400], [101, 0, 100, 400], [201, 0, 100, 400]])  # seams at 100
    found = cluster_overlay(frame, rounded, np.array([0, 0, 0]), distinct_colours(1))
    assert np.asarray(Image.open(io.BytesIO(found)).convert("RGBA"))[200, :301, 3].all()


def test_a_cluster_without_a_colour_is_damage():
    with pytest.raises(CorruptOutputError, match="summary"):
        cluster_overlay(Frame((0, 0, 9, 9), (9, 9)), np.array([[0, 0, 9, 9]]), np.array([2]), distinct_colours(2))


def test_more_clusters_than_a_palette_holds():
    n = 700
    boxes = np.array([[i % 30 * 10, i // 30 * 10, 10, 10] for i in range(n)])
    colours = distinct_colours(n)
    found = cluster_overlay(Frame((0, 0, 300, 300), (300, 300)), boxes, np.arange(n), colours)
    pixels = np.asarray(Image.open(io.BytesIO(found)).convert("RGBA"))
    assert [tuple(pixels[y + 5, x + 5, :3]) for x, y, *_ in boxes.tolist()] == colours


def test_tiles_have_borders_or_a_tint_where_they_are_small():
    frame = Frame((0, 0, 400, 400), (400, 400))
    pixels = np.asarray(Image.open(io.BytesIO(tile_overlay(frame, np.array([[100, 100, 50, 50]])))).convert("RGBA"))
    assert pixels[100, 100:150, 3].min() > 200
    assert pixels[149, 100:150, 3].min() > 200
    assert pixels[125, 125, 3] == 0
    far = Frame((0, 0, 400_000, 400_000), (400, 400))
    tiny = np.asarray(Image.open(io.BytesIO(tile_overlay(far, np.array([[200_000, 0, 300, 300]])))).convert("RGBA"))
    assert 0 < tiny[..., 3].max() < 200


def noise_jpeg(side: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    image = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_pictures_fit_their_budget_and_small_ones_stay():
    pictures = [noise_jpeg(500, 1), noise_jpeg(40, 2), noise_jpeg(700, 3), b""]
    assert fit_pictures(pictures, budget=10**9) == pictures
    budget = 120_000
    fitted = fit_pictures(pictures, budget=budget)
    assert sum(map(len, fitted)) <= budget
    assert fitted[1] == pictures[1]
    assert fitted[3] == b""
    sizes = [Image.open(io.BytesIO(p)).size for p in (fitted[0], fitted[2])]
    assert all(100 < w < 500 and w == h for w, h in sizes)
    assert fit_pictures(pictures, budget=budget) == fitted


def test_a_large_cohort_stays_small_enough_to_open(folder, monkeypatch):
    monkeypatch.setattr("microtome.viz.report._THUMBNAIL_BYTES", 30_000)
    before = sum(p.stat().st_size for p in (folder.root / "thumbnails").glob("*.plain.jpg"))
    assert before > 60_000
    page = Page(write_report(folder.root))
    embedded = [a["src"] for a in page.all("img", **{"class": "picture"})]
    assert len(embedded) == 3
    assert sum(map(len, embedded)) < 30_000 * 4 / 3 + 100


def test_data_uris_name_the_format():
    assert data_uri(noise_jpeg(8, 0)).startswith("data:image/jpeg;base64,")
    assert data_uri(tile_overlay(Frame((0, 0, 9, 9), (9, 9)), np.zeros((0, 4), np.int64))).startswith("data:image/png")


def test_scatter_draws_every_point_once_at_its_place():
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(200, 2)).astype(np.float32)
    groups = [f"g{i % 3}" for i in range(200)]
    scatter = scatter_paths(xy, groups, ["g0", "g1", "g2"])
    drawn = [tuple(map(int, p.split())) for _, path in scatter.paths for p in path.replace("h0", "").split("M") if p]
    assert len(drawn) == scatter.n_points == 200
    assert all(0 <= x <= scatter.width and 0 <= y <= scatter.height for x, y in drawn)
    right, top = xy[:, 0].argmax(), xy[:, 1].argmax()
    assert max(x for x, _ in drawn) == max(drawn, key=lambda p: p[0])[0]
    # one scale for both axes, y up
    extent = np.ptp(np.array(drawn), axis=0)
    assert extent[0] / extent[1] == pytest.approx(np.ptp(xy[:, 0]) / np.ptp(xy[:, 1]), rel=0.01)
    (place,) = [p for p in drawn if p[1] == min(y for _, y in drawn)]
    assert (xy[top, 0] < xy[right, 0]) == (place[0] < max(x for x, _ in drawn))


def test_scatter_of_one_place():
    scatter = scatter_paths(np.ones((3, 2), np.float32), ["a", "a", "a"], ["a"])
    assert scatter.n_points == 3
    assert scatter.width >= 400


def test_the_script_ends_nowhere_but_at_its_end(folder):
    source = write_report(folder.root).read_text(encoding="utf-8")
    assert source.count("</script") == 1
