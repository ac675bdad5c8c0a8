"""Rows of the table of bars: {name, value, unit, bar, holds} and whatever explains the value."""

import math
from collections.abc import Sequence

Row = dict[str, object]


def at_most(name: str, value: float, bar: float, unit: str = "", **detail: object) -> Row:
    return _row(name, value, unit, f"<= {bar:g}", value <= bar, detail)


def at_least(name: str, value: float, bar: float, unit: str = "", **detail: object) -> Row:
    return _row(name, value, unit, f">= {bar:g}", value >= bar, detail)


def exactly(name: str, value: float, bar: float, unit: str = "", **detail: object) -> Row:
    return _row(name, value, unit, f"= {bar:g}", value == bar, detail)


def told(name: str, value: float, unit: str = "", **detail: object) -> Row:
    """Without a bar."""
    return _row(name, value, unit, None, True, detail)


def _row(name: str, value: float, unit: str, bar: str | None, holds: bool, detail: dict[str, object]) -> Row:
    shown = round(value, 4) if math.isfinite(value) else str(value)
    return {"name": name, "value": shown, "unit": unit, "bar": bar, "holds": bool(holds) and not math.isnan(value), **detail}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
