import numpy as np
import pytest

from microtome.errors import EvaluationError
from microtome.viz.evaluation_survival import SurvivalCurve, draw_survival
from tests.viz.drawn import axes_of


def group(name, durations, events, survival=(1.0, 0.5)):
    survival = np.array(survival)
    return SurvivalCurve(
        name,
        np.arange(len(survival)) * 10.0,
        survival,
        survival * 0.8,
        np.minimum(survival * 1.2, 1),
        np.array(durations, float),
        np.array(events, bool),
    )


def drawn(figure):
    top, table = axes_of(figure)
    return top, [[int(t.get_text().replace(",", "")) for t in table.texts if t.get_position()[1] == i] for i in (0, 1)]


def test_numbers_at_risk_count_everybody_who_is_still_there():
    low, high = group("low risk", [5, 10, 20, 20], [0, 1, 0, 0]), group("high risk", [1, 2, 10], [1, 1, 1])
    figure = draw_survival([low, high], "Survival", p_value=0.01234, time_unit="months")
    top, at_risk = drawn(figure)
    ticks = [t for t in top.get_xticks() if 0 <= t <= 20.4]
    assert at_risk[0] == [sum(d >= t for d in low.durations) for t in ticks]
    assert at_risk[1] == [sum(d >= t for d in high.durations) for t in ticks]
    assert at_risk[0][0] == 4
    assert top.get_legend().get_title().get_text() == "log-rank p = 0.012"
    assert top.get_xlabel() == "Time (months)"
    assert [t.get_text() for t in top.get_legend().get_texts()] == [
        "low risk  n = 4, events 1",
        "high risk  n = 3, events 3",
    ]


def test_a_curve_is_a_staircase_to_the_last_observation_and_ticks_are_the_censored():
    figure = draw_survival([group("all", [5, 10, 30, 30], [0, 1, 0, 1])], "Survival")
    top = axes_of(figure)[0]
    (line,) = [line for line in top.get_lines() if str(line.get_label()).startswith("all")]
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(line.get_xdata(), [0, 10, 30])
    np.testing.assert_array_equal(line.get_ydata(), [1, 0.5, 0.5])
    (ticks,) = [line for line in top.get_lines() if line.get_label() == "_censored"]
    np.testing.assert_array_equal(ticks.get_xdata(), [5, 30])
    np.testing.assert_array_equal(ticks.get_ydata(), [1.0, 0.5])


def test_a_legend_keeps_off_curves_that_stay_high():
    high = axes_of(draw_survival([group("a", [20, 20], [0, 0], survival=(1.0, 0.9))], "S"))[0].get_legend()
    low = axes_of(draw_survival([group("a", [20, 20], [0, 0], survival=(1.0, 0.1))], "S"))[0].get_legend()
    assert high.codes["lower left"] == high._loc
    assert low.codes["upper right"] == low._loc


@pytest.mark.parametrize("p_value", [float("nan")])
def test_an_undefined_test_says_so(p_value):
    figure = draw_survival([group("a", [1], [1])], "S", p_value=p_value)
    assert axes_of(figure)[0].get_legend().get_title().get_text() == "log-rank test undefined"


def test_nobody_and_too_many_groups_are_refused():
    with pytest.raises(EvaluationError, match="'empty'"):
        draw_survival([group("empty", [], [])], "S")
    with pytest.raises(EvaluationError, match="1 to 5"):
        draw_survival([], "S")
    with pytest.raises(EvaluationError, match="Got 6"):
        draw_survival([group("a", [1], [1])] * 6, "S")
