"""What figures hold, read back."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure


def axes_of(figure: Figure) -> list[Any]:
    """The axes, without the unions that Matplotlib gives everything it holds."""
    return list(figure.axes)


def line_of(axis: Any, label: str) -> np.ndarray:
    """Points of the line that the legend calls so."""
    (line,) = [line for line in axis.get_lines() if str(line.get_label()).startswith(label)]
    return np.column_stack([line.get_xdata(), line.get_ydata()])


def legend_texts(axis: Any) -> list[str]:
    """What the legend says, from above."""
    return [text.get_text() for text in axis.get_legend().get_texts()]
