import numpy as np
import pytest

from microtome.errors import EvaluationError
from microtome.viz.evaluation_confusion import draw_confusion
from microtome.viz.evaluation_scores import draw_regression, draw_scores_per_grade
from microtome.viz.figure_style import figure_png
from microtome.viz.forest_plot import ForestRow, draw_forest
from tests.viz.drawn import axes_of


def test_cells_say_counts_and_shares_of_their_row():
    figure = draw_confusion(np.array([[3, 1], [0, 4]]), ["neg", "pos"], "Confusion")
    (axis,) = axes_of(figure)
    cells = {text.get_position(): text.get_text() for text in axis.texts}
    assert cells == {(0, 0): "3\n75 %", (1, 0): "1\n25 %", (0, 1): "0\n0 %", (1, 1): "4\n100 %"}
    np.testing.assert_array_equal(axis.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["neg\nn = 4", "pos\nn = 4"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["neg", "pos"]


def test_a_class_that_does_not_occur_has_no_shares():
    figure = draw_confusion(np.array([[0, 0], [1, 4]]), ["neg", "pos"], "Confusion")
    texts = {text.get_position(): text.get_text() for text in axes_of(figure)[0].texts}
    assert texts[0, 0] == "0"
    assert np.isfinite(axes_of(figure)[0].images[0].get_array()).all()


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 2), int), np.ones((2, 3), int), -np.ones((2, 2), int), np.ones((1, 1), int)]
)
def test_what_is_no_confusion_matrix_is_refused(counts):
    with pytest.raises(EvaluationError, match="2 classes"):
        draw_confusion(counts, ["neg", "pos"], "Confusion")


def test_text_reads_on_its_cell():
    figure = draw_confusion(np.array([[9, 1], [5, 5]]), ["neg", "pos"], "Confusion")
    colors = {text.get_position(): text.get_color() for text in axes_of(figure)[0].texts}
    assert (colors[0, 0], colors[1, 0]) == ("#ffffff", "#000000")


def test_regression_holds_every_pair_and_the_line_of_equality():
    truth, predicted = np.array([1.0, 2, 4]), np.array([1.5, 2.5, 3])
    figure = draw_regression(truth, predicted, "Age", score="R² 0.9", note="3 patients")
    (axis,) = axes_of(figure)
    (points,) = axis.collections
    np.testing.assert_array_equal(points.get_offsets(), np.column_stack([truth, predicted]))
    (line,) = axis.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 4], [1, 4])
    assert axis.get_xlim() == axis.get_ylim()
    assert {"R² 0.9", "3 patients"} == {text.get_text() for text in axis.texts}


def test_constant_values_can_be_drawn_and_bad_ones_not():
    assert figure_png(draw_regression(np.array([2.0]), np.array([2.0]), "Age"))
    for truth, predicted in (([], []), ([1.0], [np.nan]), ([np.inf], [1.0])):
        with pytest.raises(EvaluationError, match="finite"):
            draw_regression(np.array(truth, float), np.array(predicted, float), "Age")


def test_scores_are_drawn_by_grade_with_their_quartiles():
    scores = np.array([0.0, 1, 2, 3, 4, 10, 11, 12])
    grades = np.array([0, 0, 0, 0, 0, 2, 2, 2])
    figure = draw_scores_per_grade(scores, grades, ["I", "II", "III"], "Grade", cuts=[5.0])
    boxes = next(axis for axis in axes_of(figure) if axis.get_title(loc="left") == "Grade")
    labels = [label.get_text() for label in boxes.get_yticklabels()]
    assert labels == ["I\nn = 5", "II\nn = 0", "III\nn = 3"]
    extents = [patch.get_path().vertices[:, 0] for patch in boxes.patches]
    assert (extents[0].min(), extents[0].max()) == (1.0, 3.0)  # quartiles of 0 to 4
    histograms = [axis for axis in axes_of(figure) if axis is not boxes]
    assert [sum(p.get_height() for p in axis.patches) for axis in histograms] == [3, 0, 5]  # the highest grade on top
    for axis in axes_of(figure):
        assert [line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "_cut"] == [5.0]
    assert figure_png(figure)


def test_grades_without_a_name_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(EvaluationError, match="from 0 to 1"):
        draw_scores_per_grade(np.array([1.0]), np.array([2]), ["I", "II"], "Grade")
    for scores in (np.array([]), np.array([np.nan])):
        with pytest.raises(EvaluationError, match="finite"):
            draw_scores_per_grade(scores, np.zeros(len(scores), int), ["I"], "Grade")


def test_a_forest_says_what_it_shows():
    rows = [
        ForestRow("abmil", 0.8, 0.7, 0.9, reference=True),
        ForestRow("meanpool", 0.75, note="p = 0.04"),
        ForestRow("published", 0.85, 0.8, 0.9, published=True),
        ForestRow("broken", float("nan")),
    ]
    figure = draw_forest(rows, "msi", "roc_auc_score", chance=0.5)
    (axis,) = axes_of(figure)
    points = {line.get_label(): line for line in axis.get_lines()}
    assert [float(points[name].get_xdata()[0]) for name in ("abmil", "meanpool", "published")] == [0.8, 0.75, 0.85]
    assert [float(points[name].get_ydata()[0]) for name in ("abmil", "meanpool", "published")] == [0, 1, 2]
    assert "broken" not in points
    intervals = [list(line.get_xdata()) for line in axis.get_lines() if line.get_label() == "_interval"]
    assert intervals == [[0.7, 0.9], [0.8, 0.9]]
    assert points["_chance"].get_xdata()[0] == 0.5
    assert points["_reference"].get_xdata()[0] == 0.8
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["0.800 (0.700–0.900)", "0.750   p = 0.04", "0.850 (0.800–0.900)", "undefined"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["abmil", "meanpool", "published", "broken"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row is on top
    assert points["published"].get_markerfacecolor() == "white"


@pytest.mark.parametrize("rows", [[], [ForestRow("a", float("nan"))]])
def test_a_forest_of_nothing_is_refused(rows):
    with pytest.raises(EvaluationError, match="nothing to draw"):
        draw_forest(rows, "msi", "roc_auc_score")
