"""Numbers as people read them: few digits, a prefix for size, and always the unit."""

from __future__ import annotations

import math

NARROW = "\u00a0"
"""Space between a number and its unit, which a line break must not part."""
MINUS = "\u2212"

_COUNT_PREFIXES = ("", "k", "M", "B", "T")
_SIZE_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def digits(value: float, significant: int = 3) -> str:
    """Returns a number with so many significant digits, thousands parted by commas: `0.0312`, `12,300`.

    Args:
        value: Any float; one that is not finite is returned as a word.
        significant: Digits that count. A number of more digits than that before its point keeps them all.
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinite" if value > 0 else f"{MINUS}infinite")
    if value == 0:
        return "0"
    # Rounded first, because 9.996 has one digit more before its point once it is 10.0.
    magnitude = math.floor(math.log10(abs(float(f"{value:.{significant - 1}e}"))))
    if magnitude < -4:
        return f"{value:.{significant - 1}e}".replace("-", MINUS)
    return f"{value:,.{max(0, significant - 1 - magnitude)}f}".replace("-", MINUS)


def whole(value: float) -> str:
    """Returns a count in full: `1,234,567`."""
    return f"{round(value):,}".replace("-", MINUS)


def count(value: float, unit: str = "") -> str:
    """Returns a count at a glance: `1.23 M tokens`; below ten thousand in full."""
    if abs(value) < 10_000:
        text = whole(value) if float(value).is_integer() else digits(value)
    else:
        text = _prefixed(value, 1000.0, _COUNT_PREFIXES)
    if value == 1 and not unit.endswith("/s"):
        unit = unit.removesuffix("s")
    return f"{text}{NARROW}{unit}" if unit else text


def size(num_bytes: float) -> str:
    """Returns an amount of bytes with a decimal prefix: `3.40 MB`."""
    if abs(num_bytes) < 1000:
        return f"{whole(num_bytes)}{NARROW}bytes"
    return _prefixed(num_bytes, 1000.0, _SIZE_UNITS)


def duration(seconds: float) -> str:
    """Returns a time in its two largest units: `41 ms`, `8.2 s`, `2 min 05 s`, `3 h 12 min`."""
    if 0 < seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))}{NARROW}ms"
    if seconds < 59.95:
        return f"{digits(seconds, 2) if seconds < 10 else f'{seconds:.1f}'}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours}{NARROW}h {minutes:02d}{NARROW}min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days}{NARROW}d {hours}{NARROW}h"


def percent(share: float, decimals: int = 1) -> str:
    """Returns a share between 0 and 1 as a percentage: `94.0 %`; a tiny one keeps a digit: `0.02 %`."""
    if 0 < abs(100 * share) < 0.5 * 10**-decimals:
        return f"{digits(100 * share, 1)}{NARROW}%"
    return f"{100 * share:.{decimals}f}{NARROW}%".replace("-", MINUS)


def is_share(unit: str) -> bool:
    """Says whether a figure of this unit is a share between 0 and 1, which is shown as a percentage."""
    return unit.startswith("share")


def figure(value: float, unit: str) -> str:
    """Returns a benchmark's figure without its unit's words: `94.0 %` for a share, `2.134` for anything else."""
    return percent(value) if is_share(unit) else digits(value, 4)


def interval(low: float, high: float, unit: str) -> str:
    """Returns both ends of an interval, the percent sign once: `91.0 to 96.5 %`."""
    ends = (figure(low, unit), figure(high, unit))
    return f"{ends[0].removesuffix(NARROW + '%')} to {ends[1]}"


def _prefixed(value: float, base: float, prefixes: tuple[str, ...]) -> str:
    power = min(int(math.log(abs(value), base)), len(prefixes) - 1)
    # 999,999 rounds to 1,000 k, which is 1 M.
    if abs(value) / base**power >= base - 0.5 and power + 1 < len(prefixes):
        power += 1
    return f"{digits(value / base**power)}{NARROW}{prefixes[power]}"
