"""Figures, intervals and p-values as a report spells them."""

import math

from mixlm.analysis.intervals import Interval
from mixlm.analysis.paired import Difference
from mixlm.reports.units import count


def number(value: float) -> str:
    """A figure with four significant digits; "-" where there is none."""
    if math.isnan(value) or value == 0:
        return "0" if value == 0 else "-"
    text = f"{value:.4g}"
    return text if "e" in text or abs(value) >= 1000 else f"{value:.{max(0, 3 - _power(value))}f}"


def place(value: float) -> str:
    """A place along an axis, with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(value: float) -> str:
    """A difference with its sign and three significant digits."""
    return "-" if math.isnan(value) else f"{value:+.3g}"


def spread(found: Interval) -> str:
    """A mean with its interval, such as "4.401 [4.352, 4.450]"."""
    if not found.known:
        return number(found.mean)
    digits = max(0, min(6, 2 - _power(found.high - found.low)))
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def change(found: Difference, unit: str = "") -> str:
    """A paired difference with interval, p after Holm, and number of pairs."""
    inside = found.interval
    if inside.n < 2:
        return f"{signed(inside.mean)}{unit} (n = {inside.n}, no test)"
    return (
        f"{signed(inside.mean)}{unit} [{signed(inside.low)}, {signed(inside.high)}], p {chance(found.adjusted, '= ')}, "
        f"n = {inside.n}"
    )


def chance(p: float, equal: str = "") -> str:
    """A p-value with two significant digits, after `equal`; "< 0.0001" below that."""
    if math.isnan(p):
        return "-"
    if p < 1e-4:
        return "< 0.0001"
    return f"{equal}{p:.2g}" if p < 0.1 else f"{equal}{p:.2f}"


def amount(value: float, unit: str = "") -> str:
    """A large count with an SI prefix, such as "1.250 TFLOP"; "-" where there is none."""
    if math.isnan(value):
        return "-"
    head, _, prefix = count(value).partition(" ")
    return f"{head} {prefix}{unit}".rstrip()


def _power(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
