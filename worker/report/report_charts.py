"""Charts as SVG, drawn by Vega-Lite, which escapes all texts.

Colors are CSS variables of the page, so that one picture serves light and dark screens and paper.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from worker.report.report_figures import PeriodUnit, Tally

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_INK, _MUTED, _RULE, _TRACK = "var(--ink)", "var(--muted)", "var(--rule)", "var(--track)"
_ISSUED_COLOR, _REFUSED_COLOR = "var(--issued)", "var(--refused)"

_CONFIG: dict[str, Any] = {
    "aria": False,  # the page names the picture, and has a table of its figures
    "background": None,
    "padding": 0,
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": _MUTED,
        "labelFontSize": 13,
        "gridColor": _RULE,
        "domainColor": _RULE,
        "tickColor": _RULE,
        "title": None,
    },
    "title": {"anchor": "start", "fontSize": 14, "fontWeight": 600, "offset": 8},
}
_TIME_FORMATS: dict[PeriodUnit, str] = {"hour": "%H:%M", "day": "%d %b", "month": "%b %Y"}
_MIN_LABEL_DISTANCE = 66
_BAR_WIDTH, _ROW_HEIGHT = 360, 44  # of the chart of a ranking
_LABEL_SIZE = 14


class Bar(NamedTuple):
    """One row of a ranking: its name, its value as text, and the sizes of its segments.

    mark is the position of a tick, in the unit of the sizes. issued and refused are colors.
    """

    name: str
    value: str
    issued: float = 0
    refused: float = 0
    mark: float | None = None


def draw_periods(periods: Sequence[Tally], unit: PeriodUnit, width: int) -> str:
    """Draw issued and refused items by time, one above the other, each with its own scale."""
    return _draw_chart(
        {
            "data": {"values": [period._asdict() for period in periods]},
            "params": [
                {"name": "labels", "value": {p.name: _time_label(p.name, unit) for p in periods}}
            ],
            "spacing": 14,
            "vconcat": [
                _period_panel("issued", _ISSUED_COLOR, _labelled(periods, width), (width, 150)),
                _period_panel("refused", _REFUSED_COLOR, _labelled(periods, width), (width, 70)),
            ],
        }
    )


def _time_label(name: str, unit: PeriodUnit) -> str:
    start = datetime.fromisoformat(f"{name}-01" if unit == "month" else name)
    is_midnight = unit == "hour" and not start.hour
    return f"{start:{_TIME_FORMATS['day' if is_midnight else unit]}}".lstrip("0")


def _labelled(periods: Sequence[Tally], width: int) -> list[str]:
    """Return the names of the periods that have room for a label: the last one, and every nth."""
    step = max(-(-len(periods) * _MIN_LABEL_DISTANCE // width), 1)
    return [period.name for period in periods[::-1][::step]]


def _period_panel(
    field: str, color: str, labelled: list[str], size: tuple[int, int]
) -> dict[str, Any]:
    width, height = size
    name_axis = {
        "axis": {
            "grid": False,
            "values": labelled,
            "labelExpr": "labels[datum.value]",
            "labelAngle": 0,
            "labelOverlap": False,
            "ticks": False,
            "labelPadding": 6,
        },
        "scale": {"paddingInner": 0.18, "paddingOuter": 0.1},
    }
    count_axis = {
        "axis": {"tickCount": 3, "domain": False, "ticks": False, "format": "~s", "minExtent": 36},
        "scale": {"domainMin": 0, "nice": True},
    }
    return {
        "width": width,
        "height": height,
        "title": {"text": field.capitalize(), "color": color},
        "mark": {"type": "bar", "color": color},
        "encoding": {
            # Names, not times: Vega knows no zone but that of the machine.
            "x": {"field": "name", "type": "ordinal", "sort": None, **name_axis},
            "y": {"field": field, "type": "quantitative", **count_axis},
        },
    }


def draw_ranking(bars: Sequence[Bar], largest: float | None = None) -> str:
    """Draw a bar for each row, below its name and value.

    largest is the size that fills the whole width; by default, that of the largest bar.
    """
    full = largest or max((bar.issued + bar.refused for bar in bars), default=0) or 1
    rows = [bar._asdict() | {"row": number, "full": full} for number, bar in enumerate(bars)]
    y = {"field": "row", "type": "ordinal", "axis": None}
    text = {"type": "text", "baseline": "bottom", "fontSize": _LABEL_SIZE, "dy": 1}
    value_width = 8 * max((len(bar.value) for bar in bars), default=0) + 16
    layers = [
        _segment("0", "datum.full", _TRACK),
        _segment("0", "datum.issued", _ISSUED_COLOR),
        _segment("datum.issued", "datum.issued + datum.refused", _REFUSED_COLOR),
        {
            "transform": [{"filter": "isValid(datum.mark)"}],
            "mark": {"type": "tick", "thickness": 2, "size": 14, "yOffset": 12, "color": _INK},
            "encoding": {"x": {"field": "mark", "type": "quantitative"}, "y": y},
        },
        {
            "mark": text
            | {"align": "left", "x": 0, "color": _INK, "limit": _BAR_WIDTH - value_width},
            "encoding": {"text": {"field": "name"}, "y": y},
        },
        {
            "mark": text | {"align": "right", "x": "width", "color": _MUTED},
            "encoding": {"text": {"field": "value"}, "y": y},
        },
    ]
    return _draw_chart(
        {
            "data": {"values": rows},
            "width": _BAR_WIDTH,
            "height": {"step": _ROW_HEIGHT},
            "layer": layers,
            "resolve": {"scale": {"x": "shared"}},
        }
    )


def _segment(begin: str, end: str, color: str) -> dict[str, Any]:
    x = {"type": "quantitative", "axis": None, "scale": {"nice": False}}
    return {
        "transform": [{"calculate": begin, "as": "begin"}, {"calculate": end, "as": "end"}],
        "mark": {"type": "bar", "height": 10, "yOffset": 12, "color": color},
        "encoding": {
            "x": {"field": "begin", **x},
            "x2": {"field": "end"},
            "y": {"field": "row", "type": "ordinal", "axis": None},
        },
    }


def _draw_chart(spec: dict[str, Any]) -> str:
    # Imported here because it loads 80 MB, which only this command needs.
    import vl_convert  # noqa: PLC0415

    svg = vl_convert.vegalite_to_svg(
        {"$schema": _SCHEMA, "config": _CONFIG, **spec}, allowed_base_urls=[]
    )
    # The page describes the picture beside it: assistive technology skips it.
    return str(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))
