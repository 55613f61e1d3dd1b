"""The direct reader gives OpenSlide's pixels or leaves them to OpenSlide, and says so."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.errors import (
    ConfigError,
    SlideChangedError,
    UnreadableRegionError,
    UnsupportedFormatError,
)
from microtome.geometry import Box, Size
from microtome.slides import direct_decode, direct_index
from microtome.slides.open import open_slide
from microtome.slides.write import TileCoding, write_svs, write_tiff
from microtome.testing.damage import break_tile
from microtome.testing.slide_contract import SlideCase, SlideContract
from tests.slides.fakes import canvas_of, coordinates
from tests.slides.jpeg_tiffs import APERIO, JPEG2000_RGB, JPEG2000_YCBCR, Made, bare, encode_j2k
from tests.slides.test_outcomes import TABLE

RGB = Made(photometric="rgb", options={"keep_rgb": True})
FIT = {
    "4:2:0": Made(),
    "4:2:2": Made(options={"subsampling": "4:2:2"}),
    "4:4:4": Made(options={"subsampling": "4:4:4"}),
    "4:1:1": Made(options={"subsampling": "4:1:1"}),
    "no markers of colour": Made(change=bare),
    "RGB": RGB,
    "RGB, no markers of colour": replace(RGB, change=bare),
    "YCbCr that the page calls RGB": Made(photometric="rgb", options={"subsampling": "4:4:4"}),
    "RGB that the page calls YCbCr": Made(options={"keep_rgb": True}),
    "grey": Made(photometric="minisblack", options={}),
    "grey with tables": Made(photometric="minisblack", options={}, tables=True),
    "tables": Made(tables=True),
    "tables, no markers of colour": Made(tables=True, change=bare),
    "restart markers": Made(options={"restart_marker_blocks": 3}),
    "progressive": Made(options={"progressive": True}),
    "Huffman tables of its own in each tile": Made(options={"optimize": True}),
    "tiles that begin unlike each other": Made(change=lambda i, data: bare(i, data) if i % 2 else data),
    "BigTIFF": Made(big=True, tables=True),
    "tiles of 240": Made(tile=(240, 240)),
    "tiles that are not square": Made(tile=(16, 272)),
    "one tile, larger than the image": Made(tile=(512, 512)),
    "SVS": Made(tile=(240, 240), tables=True, description=APERIO),
    "SVS of RGB": replace(RGB, tile=(240, 240), tables=True, change=bare, description=APERIO),
    "JPEG 2000": Made(photometric="rgb", description=APERIO, compression=JPEG2000_RGB, encode=encode_j2k),
}


@contextmanager
def both(path):
    """A slide as it is opened, and through OpenSlide."""
    with open_slide(path) as slide, open_slide(path, reader="openslide") as reference:
        yield slide, reference


def assert_same(slide, reference):
    """Whole levels, read in one go and in parts of an odd size, edges included."""
    for index, level in enumerate(reference.levels):
        boxes = [
            Box(x, y, min(97, level.size.width - x), min(131, level.size.height - y))
            for x in range(0, level.size.width, 97)
            for y in range(0, level.size.height, 131)
        ]
        for box in (Box.of(level.size), *boxes):
            np.testing.assert_array_equal(slide.read_native(index, box), reference.read_native(index, box))


@pytest.fixture(scope="module", params=FIT, ids=str)
def fit(request, tmp_path_factory):
    made = FIT[request.param]
    return made.write(tmp_path_factory.mktemp("fit") / ("a.svs" if made.description else "a.tif"))


def test_what_is_fit_is_read_directly_and_equals_openslide(fit):
    with both(fit) as (slide, reference):
        assert (slide.reader, slide.reader_note) == ("direct", "")
        assert slide.levels == reference.levels
        assert slide.properties == reference.properties
        assert_same(slide, reference)


@pytest.fixture(scope="module")
def opened(fit):
    with both(fit) as slides:
        yield slides


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_at_any_scale_equals_openslide(opened, data):
    slide, reference = opened
    x, y = data.draw(st.integers(-40, slide.size.width)), data.draw(st.integers(-40, slide.size.height))
    box = Box(x, y, data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400)))
    size = Size(data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200)))
    np.testing.assert_array_equal(slide.read(box, size=size), reference.read(box, size=size))


@pytest.mark.parametrize("name", [o.path for o in TABLE if o.reader in ("direct", "openslide")])
def test_every_real_slide_equals_openslide(shared, name):
    rng = np.random.default_rng(1)
    with both(shared / "data" / name) as (slide, reference):
        for index, level in enumerate(slide.levels):
            for _ in range(8):
                width, height = (int(rng.integers(1, min(500, s) + 1)) for s in (level.size.width, level.size.height))
                x, y = (
                    int(rng.integers(level.size.width - width + 1)),
                    int(rng.integers(level.size.height - height + 1)),
                )
                for box in (
                    Box(x, y, width, height),
                    Box(level.size.width - width, level.size.height - height, width, height),
                ):
                    try:
                        expected = reference.read_native(index, box)
                    except UnreadableRegionError:
                        with pytest.raises(UnreadableRegionError):
                            slide.read_native(index, box)
                    else:
                        np.testing.assert_array_equal(slide.read_native(index, box), expected)


def thinned(level, lost):
    """Leaves out tiles of one level of a file of 56 tiles and 16 tiles."""
    n_seen = [0]

    def change(index, data):
        n_seen[0] += 1
        return b"" if (n_seen[0] > 56) == bool(level) and index in lost else data

    return change


PARTLY = {
    "a downsample between whole pixels": (Made(levels=((400, 500), (133, 167))), "level 1: its downsample is 3.00"),
    "tiles missing at level 0": (Made(change=thinned(0, {2, 20})), "tiles of level 0 are missing"),
    "the same of Aperio": (Made(change=thinned(0, {2, 20}), description=APERIO), "tiles of level 0 are missing"),
    "tiles missing at level 1": (Made(change=thinned(1, {2, 9}), description=APERIO), ""),
    "one tile of another sampling": (
        Made(change=lambda i, d: simplejpeg.encode_jpeg(np.full((64, 64, 3), 7 * i, np.uint8)) if i == 5 else d),
        "",
    ),
}


@pytest.mark.parametrize("name", PARTLY)
def test_what_is_not_fit_is_left_to_openslide(tmp_path, name):
    made, note = PARTLY[name]
    with both(made.write(tmp_path / "a.svs")) as (slide, reference):
        assert slide.reader == "direct"
        assert note in slide.reader_note
        assert bool(note) == bool(slide.reader_note)
        assert_same(slide, reference)


def test_a_level_of_another_compression_is_left_to_openslide(tmp_path):
    path = tmp_path / "a.tif"
    replace(Made(), levels=((400, 500),)).write(path)
    with tifffile.TiffWriter(path, append=True) as tiff:
        image = coordinates(200, 250)
        tiff.write(image, tile=(64, 64), photometric="rgb", compression="deflate", subfiletype=1, metadata=None)
    with both(path) as (slide, reference):
        assert slide.reader == "direct"
        assert "level 1: its compression is 32946" in slide.reader_note
        assert_same(slide, reference)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Made(change=lambda i, d: b""), "no tile of it could be compared"),
        (
            Made(compression=JPEG2000_YCBCR, photometric="rgb", encode=encode_j2k, description=APERIO),
            "no tiles of JPEG",
        ),
    ],
)
def test_a_slide_without_a_fit_level_is_declined_with_the_reason(tmp_path, made, reason):
    path = made.write(tmp_path / "a.svs")
    with pytest.raises(UnsupportedFormatError, match=reason):
        open_slide(path, reader="direct")
    with open_slide(path) as slide:
        assert slide.reader == "openslide"


def test_uncompressed_tiles_are_declined(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, canvas_of(coordinates(256, 256)), coding=TileCoding(64, compression="deflate"))
    with pytest.raises(UnsupportedFormatError, match="no tiles of JPEG"):
        open_slide(path, reader="direct")
    with open_slide(path) as slide:
        assert (slide.reader, slide.reader_note) == ("openslide", "")


def planted(monkeypatch, *, least=0):
    """A decoder that is wrong by one level in one value of each tile whose mean is at least so much."""
    decode = direct_decode._decode_jpeg

    def wrong(stream, out, min_height, min_width):
        decode(stream, out, min_height, min_width)
        if out.mean() >= least:
            out[out.shape[0] // 2, 3, 1] ^= 1

    monkeypatch.setattr(direct_decode, "_decode_jpeg", wrong)


def test_one_wrong_value_makes_openslide_read_the_slide(tmp_path, monkeypatch):
    path = Made().write(tmp_path / "a.tif")
    planted(monkeypatch)
    with both(path) as (slide, reference):
        assert slide.reader == "openslide"
        assert "level 0" in slide.reader_note
        assert "differ from OpenSlide's" in slide.reader_note
        assert_same(slide, reference)
        copy = pickle.loads(pickle.dumps(slide))  # noqa: S301 - our own bytes
        with copy:
            assert copy.reader_note == slide.reader_note
    with pytest.raises(UnsupportedFormatError, match="differ from OpenSlide's"):
        open_slide(path, reader="direct")


def test_the_comparison_looks_at_tissue_and_not_at_glass(tmp_path, monkeypatch):
    """One tile of 56 holds anything: it is the one that is compared."""
    glass = simplejpeg.encode_jpeg(np.full((64, 64, 3), 240, np.uint8), colorsubsampling="420")
    path = Made(change=lambda i, d: d if i == 11 else glass).write(tmp_path / "a.tif")
    decode = direct_decode._decode_jpeg

    def wrong_in_tissue(stream, out, min_height, min_width):
        decode(stream, out, min_height, min_width)
        if np.ptp(out) > 20:
            out[0, 0, 0] ^= 1

    monkeypatch.setattr(direct_decode, "_decode_jpeg", wrong_in_tissue)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"


def test_swapped_colours_are_noticed(tmp_path, monkeypatch):
    path = RGB.write(tmp_path / "a.tif")
    monkeypatch.setattr(direct_index, "_TRANSFORMS", {2: 1})  # as if RGB were YCbCr
    with open_slide(path) as slide:
        assert slide.reader == "openslide"


def test_every_tile_of_the_file_is_the_same_where_it_is_decoded_in_place(fit):
    with both(fit) as (slide, reference):
        coding = next(plane for plane in slide._planes if plane is not None).table.coding
        for y in range(0, slide.size.height, coding.height):
            for x in range(0, slide.size.width, coding.width):
                box = Box(x, y, coding.width, coding.height)  # the last ones overhang
                expected = reference.read(box)
                slot = np.full((2, *expected.shape), 77, np.uint8)
                slide.read_into(box, slot[1])
                np.testing.assert_array_equal(slot[1], expected)
                assert (slot[0] == 77).all()
        strided = np.full((coding.height, coding.width, 6), 77, np.uint8)
        slide.read_into(Box(0, 0, coding.width, coding.height), strided[:, :, ::2])
        np.testing.assert_array_equal(strided[:, :, ::2], reference.read(Box(0, 0, coding.width, coding.height)))
        assert (strided[:, :, 1::2] == 77).all()


def test_a_damaged_tile_is_unreadable_in_place_too(tmp_path):
    path = Made().write(tmp_path / "a.tif")
    broken = break_tile(path, index=20)
    with open_slide(path) as slide:
        slot = np.empty((broken.height, broken.width, 3), np.uint8)
        with pytest.raises(UnreadableRegionError, match=f"x={broken.x} y={broken.y}"):
            slide.read_into(broken, slot)
    with pytest.raises(ValueError, match="closed"):
        slide.read_into(broken, slot)


@pytest.mark.parametrize("index", [0, 20, 55])
def test_a_damaged_tile_is_unreadable_and_the_others_are_not(tmp_path, index):
    path = Made().write(tmp_path / "a.tif")
    broken = break_tile(path, index=index)
    with both(path) as (slide, reference):
        assert slide.reader == "direct"
        for _ in range(2):
            with pytest.raises(UnreadableRegionError, match=f"x={broken.x} y={broken.y}"):
                slide.read_native(0, broken)
        for x, y in [(64, 64), (320, 256), (300, 100)]:
            box = Box(x, y, 64, 64)
            if box.intersection(broken) is None:
                np.testing.assert_array_equal(slide.read(box), reference.read(box))


def spoil(path: Path, index: int, at: float, data: bytes) -> Box:
    """Change bytes within the entropy-coded part of a tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        row, column = divmod(index, -(-page.imagewidth // page.tilewidth))
        box = Box(column * page.tilewidth, row * page.tilelength, page.tilewidth, page.tilelength)
    head = path.read_bytes()[offset : offset + n_bytes].index(b"\xff\xda") + 14
    with path.open("r+b") as file:
        file.seek(offset + head + int((n_bytes - head - len(data)) * at))
        file.write(data)
    return box


@pytest.mark.parametrize("data", [b"\xff\xd9", b"\xff\xfe\x00\x02", b"\xff\xd0\xff\xd3", b"\0" * 60], ids=bytes.hex)
def test_data_of_which_a_decoder_only_warns_is_never_painted(tmp_path, data):
    """At least as strict as OpenSlide: what it refuses is refused, and what it shows is shown so or refused."""
    path = Made(tile=(128, 128)).write(tmp_path / "a.tif")
    box = spoil(path, 5, 0.4, data)
    with both(path) as (slide, reference):
        assert slide.reader == "direct"
        try:
            pixels = slide.read(box)
        except UnreadableRegionError:
            return
        np.testing.assert_array_equal(pixels, reference.read(box))


@pytest.mark.parametrize("seed", range(12))
def test_bytes_exchanged_at_random_are_never_painted(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = Made(tile=(128, 128)).write(tmp_path / "a.tif")
    box = spoil(path, 5, float(rng.random()), rng.bytes(int(rng.integers(1, 4))))
    with both(path) as (slide, reference):
        try:
            pixels = slide.read(box)
        except UnreadableRegionError:
            return
        np.testing.assert_array_equal(pixels, reference.read(box))


def test_a_warning_counts(tmp_path):
    """A stream that ends early: libjpeg fills the rest with grey and warns."""
    path = Made(tile=(128, 128)).write(tmp_path / "a.tif")
    box = spoil(path, 5, 0.4, b"\xff\xd9")
    with open_slide(path, reader="direct") as slide, pytest.raises(UnreadableRegionError, match="premature end"):
        slide.read(box)


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path):
    """It ends in an error of ours: nothing is mapped that could take the process down."""
    path = Made(tile=(128, 128)).write(tmp_path / "a.tif")
    with open_slide(path, reader="direct") as slide:
        with path.open("r+b") as file:
            file.truncate(2000)
        with pytest.raises(SlideChangedError):
            slide.read(Box.of(slide.size))


def test_many_threads_read_what_one_reads_and_decode_once(tmp_path, monkeypatch):
    path = Made(tile=(128, 128), levels=((1000, 1200),)).write(tmp_path / "a.tif")
    n_decoded = []
    decode = direct_decode._decode_jpeg
    with both(path) as (slide, reference):
        expected = reference.read(Box.of(slide.size))

        def counted(*arguments):
            n_decoded.append(1)
            decode(*arguments)

        monkeypatch.setattr(direct_decode, "_decode_jpeg", counted)
        boxes = [Box(x, y, 100, 100) for y in range(0, 900, 50) for x in range(0, 1100, 50)] * 2
        with ThreadPoolExecutor(8) as pool:
            for box, pixels in zip(boxes, pool.map(slide.read, boxes), strict=True):
                np.testing.assert_array_equal(pixels, expected[box.y : box.bottom, box.x : box.right])
    assert len(n_decoded) == 8 * 9  # of 8 × 10: the boxes end before the last column


def test_decoders_are_in_the_recipe(tmp_path):
    path = Made().write(tmp_path / "a.tif")
    with both(path) as (slide, reference):
        assert slide.recipe["reader_name"] == "direct"
        assert slide.recipe["reader_simplejpeg"] == simplejpeg.__version__
        assert {**reference.recipe, "reader_name": "direct"}.items() <= slide.recipe.items()
    path = FIT["JPEG 2000"].write(tmp_path / "b.svs")
    with open_slide(path) as slide:
        assert slide.recipe["reader_imagecodecs"] == imagecodecs.__version__


def test_a_scaled_decoding_is_near_the_exact_one_and_never_asked_for_in_vain(tmp_path):
    path = Made(tile=(128, 128), levels=((1000, 1200),)).write(tmp_path / "a.tif")
    with both(path) as (slide, reference):
        for scale, tolerance in ((2, 4.0), (4, 4.0), (8, 4.0), (3, 4.0), (20, 4.0)):
            box, size = Box(40, 80, 80 * scale, 40 * scale) if scale < 20 else Box(0, 0, 1200, 1000), Size(80, 40)
            assert slide.dct_scale(box, size) == {3: 2, 20: 8}.get(scale, scale)
            got = slide.read(box, size=size, decode="dct").astype(int)
            exact = slide.read(box, size=size).astype(int)
            assert 0 < np.abs(got - exact).mean() < tolerance
        np.testing.assert_array_equal(slide.read(Box(3, 5, 90, 90), decode="dct"), slide.read(Box(3, 5, 90, 90)))
        with pytest.raises(ConfigError, match="decode='dct'"):
            reference.read(Box(0, 0, 64, 64), size=Size(32, 32), decode="dct")
    with open_slide(FIT["JPEG 2000"].write(tmp_path / "b.svs")) as slide, pytest.raises(ConfigError, match="JPEG 2000"):
        slide.read(Box(0, 0, 64, 64), size=Size(32, 32), decode="dct")


def test_a_scaled_decoding_lies_where_the_exact_one_lies(tmp_path):
    """No shift: each part of the picture is nearer to its own place than to one pixel aside."""
    image = coordinates(1024, 1024)
    path = tmp_path / "a.tif"
    write_tiff(path, canvas_of(image, downsamples=(1,)), coding=TileCoding(256, quality=95))
    with open_slide(path) as slide:
        for scale in (2, 4, 8):
            box = Box(128, 256, 64 * scale, 64 * scale)
            got = slide.read(box, size=Size(64, 64), decode="dct")[:, :, :2].astype(float)
            truth = image[box.y : box.bottom, box.x : box.right, :2].astype(float)
            mean = truth.reshape(64, scale, 64, scale, 2).mean(axis=(1, 3))
            assert abs((got - mean).mean()) < 0.15 * scale / 4 + 0.3


class TestDirectOnSvs(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = tmp_path / "a.svs"
        label = np.full((40, 60, 3), 200, np.uint8)
        write_svs(path, canvas_of(coordinates(512, 768)), coding=TileCoding(64), associated={"label": label})
        with open_slide(path, reader="openslide") as slide:
            level0 = slide.read_native(0, Box.of(slide.size))
        return SlideCase(lambda: open_slide(path, reader="direct"), level0, associated=("label", "thumbnail"))


class TestDirectOnTiffWithMissingTiles(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = Made(change=thinned(1, {2, 9})).write(tmp_path / "a.tif")
        return SlideCase(lambda: open_slide(path, reader="direct"))


class TestDirectOnJpeg2000(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = FIT["JPEG 2000"].write(tmp_path / "a.svs")
        return SlideCase(lambda: open_slide(path, reader="direct"))


class TestDirectOnRealSvs(SlideContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data/wsi/CMU-1-Small-Region.svs"
        return SlideCase(lambda: open_slide(path, reader="direct"), associated=("label", "macro", "thumbnail"))
