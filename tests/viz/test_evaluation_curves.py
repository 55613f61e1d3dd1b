import io

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

from microtome.errors import EvaluationError
from microtome.viz.evaluation_curves import (
    CalibrationBins,
    Curve,
    draw_calibration,
    draw_precision_recall,
    draw_roc,
)
from microtome.viz.figure_style import figure_png, save_figure, show_interval
from tests.viz.drawn import axes_of, legend_texts, line_of

X = np.array([0.0, 0.0, 0.25, 1.0])
Y = np.array([0.0, 0.5, 0.75, 1.0])


def bins(name="a", **changes):
    values = {
        "predicted": np.array([0.1, 0.9]),
        "observed": np.array([0.2, 0.8]),
        "low": np.array([0.0, 0.5]),
        "high": np.array([0.4, 1.0]),
        "counts": np.array([3, 2]),
        "probabilities": np.array([0.1, 0.1, 0.12, 0.9, 0.91]),
    }
    return CalibrationBins(name, **{**values, **changes})


def test_a_roc_holds_its_curve_its_band_its_folds_and_the_diagonal():
    grid = np.array([0.0, 0.5, 1.0])
    low, high = np.array([0.1, 0.4, 0.9]), np.array([0.7, 0.9, 1.0])
    folds = ((np.array([0.0, 1.0]), np.array([0.3, 1.0])), (np.array([0.0, 1.0]), np.array([0.6, 1.0])))
    figure = draw_roc([Curve("MSI", X, Y, "AUROC 0.81", (grid, low, high), folds)], "ROC of msi", note="7 patients")
    (axis,) = axes_of(figure)
    np.testing.assert_array_equal(line_of(axis, "MSI  AUROC 0.81"), np.column_stack([X, Y]))
    np.testing.assert_array_equal(line_of(axis, "blind guess"), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(line_of(axis, "folds (2)"), [[0, 0.3], [1, 1]])
    np.testing.assert_array_equal(line_of(axis, "_fold"), [[0, 0.6], [1, 1]])
    (band,) = [c for c in axis.collections if isinstance(c, PolyCollection)]
    corners = {tuple(point) for point in np.asarray(band.get_paths()[0].vertices).round(6)}
    assert corners == {(0, 0.1), (0.5, 0.4), (1, 0.9), (0, 0.7), (0.5, 0.9), (1, 1)}
    assert axis.get_title(loc="left") == "ROC of msi"
    assert "7 patients" in [text.get_text() for text in axis.texts]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("1 − specificity", "Sensitivity")
    assert legend_texts(axis)[0].startswith("MSI")


def test_folds_of_several_classes_are_not_drawn_over_each_other():
    fold = (np.array([0.0, 1.0]), np.array([0.3, 1.0]))
    figure = draw_roc([Curve(name, X, Y, folds=(fold, fold)) for name in "abcd"], "ROC")
    assert len(axes_of(figure)[0].get_lines()) == 5  # four classes, one diagonal
    colors = [line.get_color() for line in axes_of(figure)[0].get_lines()[1:]]
    assert len(set(colors)) == 4


def test_precision_is_held_between_recalls_and_the_prevalence_is_drawn():
    figure = draw_precision_recall([Curve("MSI", X, 1 - Y / 2, "AP 0.8", prevalence=0.3)], "PR")
    (axis,) = axes_of(figure)
    (line,) = [line for line in axis.get_lines() if line.get_label() == "MSI  AP 0.8"]
    assert line.get_drawstyle() == "steps-pre"
    (prevalence,) = [line for line in axis.get_lines() if line.get_label() == "prevalence 0.30"]
    assert list(prevalence.get_ydata()) == [0.3, 0.3]


def test_each_class_has_its_prevalence_in_its_colour():
    figure = draw_precision_recall([Curve(n, X, Y, prevalence=p) for n, p in (("a", 0.2), ("b", 0.7))], "PR")
    (axis,) = axes_of(figure)
    lines = {line.get_label(): line for line in axis.get_lines() if not str(line.get_label()).startswith("_")}
    levels = {line.get_color(): line.get_ydata()[0] for line in axis.get_lines() if line.get_label() == "_prevalence"}
    assert levels == {lines["a"].get_color(): 0.2, lines["b"].get_color(): 0.7}
    assert legend_texts(axis)[-1].startswith("prevalence")


def test_calibration_holds_bins_intervals_and_a_histogram_of_all_predictions():
    figure = draw_calibration([bins(score="Brier 0.1")], "Calibration")
    top, bottom = axes_of(figure)
    np.testing.assert_array_equal(line_of(top, "a  Brier 0.1"), [[0.1, 0.2], [0.9, 0.8]])
    segments = [segment.tolist() for c in top.collections for segment in c.get_segments()]
    assert segments == [[[0.1, 0.0], [0.1, 0.4]], [[0.9, 0.5], [0.9, 1.0]]]
    assert sum(patch.get_height() for patch in bottom.patches) == 5
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a  Brier 0.1", "perfectly calibrated"}


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.array([]), np.array([])),
        (np.array([0.0, 1.0]), np.array([0.0, np.nan])),
        (np.array([0.0, 1.5]), np.array([0.0, 1.0])),
        (np.array([0.0, 1.0]), np.array([-0.1, 1.0])),
    ],
)
def test_a_curve_outside_of_the_unit_square_is_refused(x, y):
    with pytest.raises(EvaluationError, match="0 to 1"):
        draw_roc([Curve("a", x, y)], "ROC")


def test_no_curve_is_refused():
    for draw in (draw_roc, draw_precision_recall, draw_calibration):
        with pytest.raises(EvaluationError, match="no "):
            draw([], "empty")


def test_the_picture_is_the_same_each_time_at_150_dpi_and_shows_everything(tmp_path):
    data = figure_png(draw_roc([Curve("a", X, Y)], "ROC"))
    assert data == figure_png(draw_roc([Curve("a", X, Y)], "ROC"))
    image = Image.open(io.BytesIO(data))
    assert round(image.info["dpi"][0]) == 150
    pixels = np.asarray(image.convert("L"))
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges == 255).all()  # nothing is cut at the border
    assert save_figure(draw_roc([Curve("a", X, Y)], "ROC"), tmp_path / "x" / "roc.png").read_bytes() == data


def test_a_name_with_dollars_and_foreign_script_is_drawn_as_it_is():
    figure = draw_roc([Curve("$x_1$ 淋巴", X, Y)], "ROC of $a$")
    assert figure_png(figure)
    assert "$x_1$ 淋巴" in legend_texts(axes_of(figure)[0])[0]


def test_intervals_are_written_only_where_there_are_any():
    assert show_interval(float("nan"), 0.1, 0.2) == "undefined"
    assert show_interval(0.5, float("nan"), float("nan")) == "0.500"
    assert show_interval(1234.5, 1000.0, 2000.0) == "1.23e+03 (1e+03–2e+03)"
