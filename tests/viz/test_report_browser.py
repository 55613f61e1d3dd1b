"""The report in a real browser, from a file, without a network."""

import csv
import io
import json

import numpy as np
import pytest
import shapely

from microtome.annotations.geojson import read_polygons
from microtome.viz.report import write_report
from tests.viz.report_folder import FRAMES, N_CLUSTERS, write_cohort

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_cohort(tmp_path_factory.mktemp("cohort") / "out")
    write_report(folder.root)
    return folder


@pytest.fixture
def page(folder, open_page):
    driver = open_page(folder.report)
    yield driver
    problems = [entry for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    assert not problems


def one(page, selector):
    return page.find_element("css selector", selector)


def shown(page, selector):
    """How many elements of the selector have a box."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length).length"
    return page.execute_script(script, selector)


def test_opens_offline_and_runs_nobody_elses_script(page):
    assert page.title.startswith("Slide report")
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return performance.getEntriesByType('resource').filter("
                               "r => !r.name.startsWith('data:')).length") == 0  # fmt: skip


def test_the_policy_stops_a_script_that_got_in(folder, open_page, tmp_path):
    source = folder.report.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    inside = "<script>window.hacked = 1</script><img src='data:,x' onerror='window.hacked = 2'><main>"
    broken.write_text(source.replace("<main>", inside), encoding="utf-8")
    driver = open_page(broken)
    assert driver.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


def test_all_pictures_load(page):
    sizes = page.execute_script(
        "const all = [...document.images]; all.forEach(i => i.loading = 'eager');"
        "return Promise.all(all.map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
    )
    assert len(sizes) >= 3 * 3 + N_CLUSTERS
    assert min(sizes) > 0


def test_every_number_equals_slides_csv(folder, page):
    cells = page.execute_script(
        "return [...document.querySelectorAll('#slide-table tbody tr')].map(row => Object.fromEntries("
        "[...row.querySelectorAll('[data-column]')].map(c => [c.dataset.column, [c.dataset.value, c.innerText]])))"
    )
    rows = list(csv.DictReader(io.StringIO(folder.slides_csv.read_text(encoding="utf-8"))))
    assert len(cells) == len(rows)
    for row, cell in zip(rows, cells, strict=True):
        for name, (value, text) in cell.items():
            assert value == row[name]
            if name in ("width", "height", "n_tiles", "n_unreadable"):  # shown in full, digits in groups
                assert text.replace("\u202f", "") in (row[name], "–", "")
            if name in ("mpp", "tissue_mm2") and value:  # shown to some digits
                assert float(text.replace("\u202f", "")) == pytest.approx(float(value), rel=5e-3)


def ring_points(page, slide_id, per_path):
    """Points along the drawn outline of a slide, in pixels of the picture that it lies on."""
    return page.execute_script(
        """
        const card = [...document.querySelectorAll('.card')].find(c => c.dataset.slide === arguments[0]);
        const path = card.querySelector('.pane .outline .line');
        const picture = card.querySelector('.pane .picture');
        const frame = picture.getBoundingClientRect();
        const toScreen = path.getScreenCTM(), length = path.getTotalLength(), points = [];
        for (let i = 0; i < arguments[1]; i += 1) {
          const p = path.getPointAtLength(length * i / arguments[1]).matrixTransform(toScreen);
          points.push([(p.x - frame.left) / frame.width, (p.y - frame.top) / frame.height]);
        }
        return points;
        """,
        slide_id,
        per_path,
    )


@pytest.mark.parametrize("slide_id", list(FRAMES))
@pytest.mark.parametrize("width", [1400, 500])
def test_outline_lies_on_the_picture_within_two_pixels_of_the_geojson(folder, open_page, slide_id, width):
    page = open_page(folder.report, width=width)
    frame = json.loads(folder.thumbnail_frame(slide_id).read_text())
    (x, y, w, h), size = frame["box"], np.array(frame["size"])
    drawn = np.array(ring_points(page, slide_id, 2000)) * size
    truth = shapely.MultiPolygon([a.polygon for a in read_polygons(folder.tissue(slide_id))])
    truth = shapely.transform(truth, lambda xy: (xy - (x, y)) / (w, h) * size)
    assert shapely.distance(shapely.points(drawn), truth.boundary).max() < 2
    along = shapely.line_interpolate_point(truth.boundary, np.linspace(0, truth.boundary.length, 2000))
    assert shapely.distance(along, shapely.MultiPoint(drawn)).max() < 2


def test_encoder_is_cited_and_licensed(page):
    assert "Ruifrok & Johnston" in one(page, "[data-card=citation]").text
    assert one(page, "[data-card=licence]").text == "Apache-2.0"
    assert one(page, "[data-card=trained_on]").text == "Cohort <A>"


def test_layers_are_switched_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    layers = {"outline": (".pane .outline path", True), "tiles": ".pane .tiles", "clusters": ".pane.map"}
    for layer, selector in layers.items():
        name, on = selector if isinstance(selector, tuple) else (selector, layer != "tiles")
        assert (shown(page, name) > 0) is on
        one(page, f"input[data-layer={layer}]").send_keys(Keys.SPACE)
        assert (shown(page, name) > 0) is not on
        one(page, f"input[data-layer={layer}]").send_keys(Keys.SPACE)
        assert (shown(page, name) > 0) is on


def order(page):
    return page.execute_script(
        "return [[...document.querySelectorAll('#slide-table tbody tr')].map(r => r.dataset.slide),"
        "[...document.querySelectorAll('.card')].map(c => c.dataset.slide)]"
    )


def test_columns_sort_by_value_and_cards_follow(page):
    button = one(page, "th[data-sort=tissue_mm2] button")
    button.click()
    rows, cards = order(page)
    assert rows == ["C-unreadable", "B 7 (2) & 'more'", "A12", "D-failed", "E-unfinished"]
    assert cards == rows[:3]
    assert one(page, "th[data-sort=tissue_mm2]").get_attribute("aria-sort") == "ascending"
    button.click()
    rows, _ = order(page)
    assert rows == ["A12", "B 7 (2) & 'more'", "C-unreadable", "D-failed", "E-unfinished"]  # absent stays last
    one(page, "th[data-sort=seconds] button").click()
    assert order(page)[0][-2:] == ["C-unreadable", "A12"]  # 42 before 754: as numbers
    one(page, "th[data-sort=slide_id] button").click()
    assert order(page)[0][0] == "A12"


def test_find_and_status_narrow_table_and_cards(page):
    one(page, "#find").send_keys("ends EARLY")
    assert shown(page, "#slide-table tbody tr") == 1
    assert one(page, "#found").text == "1 of 5"
    assert shown(page, ".card") == 0
    one(page, "#find").clear()
    one(page, "#find").send_keys("c.ndpi")
    assert shown(page, ".card") == 1
    one(page, "#find").clear()
    one(page, "#find").send_keys(" ")
    one(page, "#status option[value=done]").click()
    assert shown(page, "#slide-table tbody tr") == 2
    assert shown(page, ".card") == 2


def coloured(page):
    """Colours in the map of the first card that are not transparent, and how many pixels they have."""
    return page.execute_script(
        """
        const map = document.querySelector('.card canvas.clusters') || document.querySelector('.card img.clusters');
        const canvas = document.createElement('canvas');
        canvas.width = map.naturalWidth || map.width; canvas.height = map.naturalHeight || map.height;
        const pen = canvas.getContext('2d'); pen.drawImage(map, 0, 0);
        const data = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer), found = {};
        for (const value of data) if (value >>> 24) found[value] = (found[value] || 0) + 1;
        return found;
        """
    )


def test_one_cluster_alone(page):
    page.execute_script("document.querySelector('#gallery').scrollIntoView()")
    every = coloured(page)
    assert len(every) == N_CLUSTERS
    chip = one(page, ".layers .chip[data-cluster='2']")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    alone = coloured(page)
    assert len(alone) == 1
    assert set(alone.items()) <= set(every.items())
    dimmed = page.execute_script("return [...document.querySelectorAll('.umap g[data-cluster].dim')].map("
                                 "g => g.dataset.cluster)")  # fmt: skip
    assert set(dimmed) == {"0", "1", "3"}
    chip.click()
    assert shown(page, "canvas.clusters") == 0
    assert shown(page, "img.clusters") > 0


def test_enlarge_step_and_close_by_keyboard(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def press(key):
        ActionChains(page).send_keys(key).perform()

    page.execute_script("document.querySelector('#gallery').scrollIntoView()")
    before = page.execute_script("return document.querySelector('.card .stage').getBoundingClientRect().height")
    one(page, ".card .enlarge").send_keys(Keys.ENTER)
    assert one(page, "#viewer-name").text == "A12"
    assert (
        page.execute_script("return document.querySelector('#viewer .stage').getBoundingClientRect().height") > before
    )
    press(Keys.ARROW_RIGHT)
    assert one(page, "#viewer-name").text == "B 7 (2) & 'more'"
    press(Keys.ARROW_LEFT)
    press(Keys.ARROW_LEFT)
    assert one(page, "#viewer-name").text == "C-unreadable"
    assert one(page, "#viewer .layers input[data-layer=outline]").is_displayed()
    press(Keys.ESCAPE)
    at_home = "return document.querySelectorAll('.card .enlarge > .stage').length === 3"
    WebDriverWait(page, 10).until(lambda driver: driver.execute_script(at_home))  # the close event comes later
    assert shown(page, "#viewer") == 0
    assert page.execute_script("return document.activeElement.closest('.card').dataset.slide") == "C-unreadable"
    assert shown(page, "#gallery > .layers") == 1


@pytest.mark.parametrize("width", [1400, 500, 340])
def test_nothing_sticks_out_of_the_window(folder, open_page, width):
    page = open_page(folder.report, width=width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_text_is_dark_on_light_enough(page):
    """Contrast of WCAG AA (4.5) for every piece of text, against the nearest background colour."""
    poor = page.execute_script(
        """
        const value = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
        const light = ([r, g, b]) => 0.2126 * value(r) + 0.7152 * value(g) + 0.0722 * value(b);
        const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
        const behind = (e) => {
          for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
          }
          return [255, 255, 255];
        };
        const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const e = walker.currentNode.parentElement;
          if (!walker.currentNode.data.trim() || e.closest('script, svg') || !e.getClientRects().length) continue;
          const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
          if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(walker.currentNode.data.trim());
        }
        return poor;
        """
    )
    assert poor == []
