"""How the figures of an evaluation look, and how they become files."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from microtome.storage import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    FigureT = TypeVar("FigureT", bound=Figure)

DPI = 150
LINE_COLORS = ("#0080e7", "#ff9b00", "#23867d", "#97002e", "#000028", "#428634", "#3a2800", "#f31400")
"""Of the house's twelve those that show as thin lines on white; neighbours differ in lightness too."""
INK, SOFT, RULE = "#1b2530", "#55616e", "#c9d1d8"
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.4)), (0, (7, 2, 1.5, 2)))
"""Line styles, so that a line's name does not hang on its colour alone."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelsize": 10.5,
    "axes.edgecolor": "#909aa3",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e8ecef",
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 2.2,
    "text.parse_math": False,  # a name with dollars is a name
}
_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def house_style() -> Iterator[None]:
    """Fonts, colours and lines of the house, for what is drawn and saved inside.

    A name in a script that the font lacks is drawn as boxes, without a warning.
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def in_house_style(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function draw in :func:`house_style`."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with house_style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure that no global list keeps alive.

    Args:
        width_in: Width, inches.
        height_in: Height, inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: "Figure") -> bytes:
    """The figure as a PNG at 150 dpi, the same bytes each time for the same figure."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write the figure as a PNG, whole or not at all.

    Args:
        figure: The figure.
        path: Where.

    Returns:
        ``path``.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    data = figure_png(figure)
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


def set_heading(axis: "Axes", title: str, note: str = "") -> None:
    """The title, and under it in small print what the reader must know, such as how many patients."""
    axis.set_title(title, pad=24 if note else 10)
    if note:
        place: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
        small = axis.annotate(note, (0, 1), (0, 8), fontsize=9, color=SOFT, **place)
        small.set_in_layout(False)


def unit_axes(axis: "Axes", x_label: str, y_label: str, *, square: bool = True) -> None:
    """Axes from 0 to 1 both ways with a light grid, by default as high as wide."""
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    if square:
        axis.set_aspect("equal")
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axis.set_xticks(ticks)
    axis.set_yticks(ticks)
    axis.grid(visible=True)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)


def shortened(name: str, characters: int = 28) -> str:
    """The name, its middle left out where it is long.

    Example:
        >>> shortened("a" * 20 + "b" * 20, 9)
        'aaaa…bbbb'
    """
    if len(name) <= characters:
        return name
    half = (characters - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def show_interval(estimate: float, low: float | None, high: float | None) -> str:
    """An estimate with its interval, as people write it.

    Example:
        >>> show_interval(0.8749, 0.81, 0.9234), show_interval(0.5, None, None)
        ('0.875 (0.810–0.923)', '0.500')
        >>> show_interval(-0.1, -0.2, 0.01)
        '-0.100 (-0.200 to 0.010)'
    """
    if estimate != estimate:
        return "undefined"
    if low is None or high is None or low != low or high != high:
        return _shown(estimate)
    between = " to " if low < 0 else "–"  # a dash beside a minus reads as one sign
    return f"{_shown(estimate)} ({_shown(low)}{between}{_shown(high)})"


def _shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.3g}"
