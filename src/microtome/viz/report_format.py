"""Numbers as people read them. The report keeps each raw value beside its shown form."""

import math
import re

ABSENT = "–"
_GAP = "\u202f"  # narrow no-break space: groups digits without being taken for a decimal point
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def show_count(cell: str) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> show_count("46000").replace("\u202f", " ")
        '46 000'
        >>> show_count("")
        '–'
    """
    value = _number(cell)
    return cell or ABSENT if value is None else f"{value:,.0f}".replace(",", _GAP)


def show_area(cell: str) -> str:
    """An area in mm², to what the eye needs.

    Example:
        >>> show_area("123.4567"), show_area("7.894"), show_area("0.01234")
        ('123.5', '7.89', '0.0123')
    """
    value = _number(cell)
    if value is None:
        return cell or ABSENT
    if abs(value) >= 1:
        return f"{value:,.{1 if abs(value) >= 100 else 2}f}".replace(",", _GAP)
    return f"{value:.3g}"


def show_mpp(cell: str) -> str:
    """A resolution in µm/px, four digits.

    Example:
        >>> show_mpp("0.4990000000000001")
        '0.499'
    """
    value = _number(cell)
    return cell or ABSENT if value is None else f"{value:.4g}"


def show_share(cell: str) -> str:
    """A share 0..1 in percent.

    Example:
        >>> [show_share(s).replace("\u00a0", " ") for s in ("0.2345", "0.0042", "0.00001", "0")]
        ['23 %', '0.4 %', '<0.1 %', '0 %']
    """
    value = _number(cell)
    if value is None:
        return cell or ABSENT
    percent = 100 * value
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f}\u00a0%"
    return f"{percent:.1f}\u00a0%" if percent >= 0.1 else "<0.1\u00a0%"


def show_duration(cell: str) -> str:
    """Seconds as a duration.

    Example:
        >>> [show_duration(s).replace("\u00a0", " ") for s in ("0.012", "7.31", "42.4", "754", "7530")]
        ['<0.1 s', '7.3 s', '42 s', '12 min 34 s', '2 h 6 min']
    """
    value = _number(cell)
    if value is None:
        return cell or ABSENT
    return _duration(value).replace(" ", "\u00a0")


def _duration(seconds: float) -> str:
    if 0 < seconds < 0.1:
        return "<0.1 s"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def show_period(started: str, ended: str) -> str:
    """Two ISO moments in UTC as people write them.

    Example:
        >>> show_period("2025-03-01T09:30:00Z", "2025-03-01T10:02:11Z")
        '2025-03-01, 09:30 to 10:02 UTC'
        >>> show_period("2025-03-01T23:30:00Z", "2025-03-02T10:02:11Z")
        '2025-03-01, 23:30 to 2025-03-02, 10:02 UTC'
        >>> show_period("2025-03-01T23:30:00Z", "")
        '2025-03-01, 23:30 UTC'
    """
    if not (_MOMENT.fullmatch(started) and (not ended or _MOMENT.fullmatch(ended))):
        return " to ".join(filter(None, (started, ended)))
    text = f"{started[:10]}, {started[11:16]}"
    if ended:
        day = "" if ended[:10] == started[:10] else f"{ended[:10]}, "
        text += f" to {day}{ended[11:16]}"
    return f"{text} UTC"


def total(cells: list[str]) -> str:
    """The sum of a column as a cell; empty where no cell holds a number.

    Example:
        >>> total(["12", "", "30"]), total(["0.1", "0.2"]), total([""])
        ('42', '0.30000000000000004', '')
    """
    values = [value for value in map(_number, cells) if value is not None]
    if not values:
        return ""
    if all(cell == "" or cell.lstrip("-").isdigit() for cell in cells):
        return str(sum(int(cell) for cell in cells if cell))
    return repr(math.fsum(values))


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
