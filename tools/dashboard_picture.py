"""Draws the panels of deploy/grafana/valetkey.json for a time range, from a Prometheus, as one SVG.

It sends the queries that Grafana would send. A panel of single values is a band over time instead.
"""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "valetkey.json"

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_POINTS = 150  # of a line, at most
_COLUMN, _ROW = 50, 20  # pixels of a column and a row of Grafana's grid
_LINE = 13  # pixels of the name of a band
_TIME_AXIS = {"format": "%H:%M:%S", "tickCount": 4}
_UNITS = {"percentunit": ".0%", "bytes": ".2s"}
_FONT = "system-ui, sans-serif"
_CONFIG = {
    "font": _FONT,
    "view": {"stroke": "#d0d7de"},
    "axis": {"title": None, "gridColor": "#e6e9ec", "domain": False, "ticks": False},
    "legend": {
        "title": None,
        "orient": "bottom",
        "columns": 3,
        "symbolSize": 30,
        "labelLimit": 170,
    },
    "title": {"anchor": "start", "fontSize": 12},
    "line": {"strokeWidth": 1.4, "interpolate": "step-after"},
}
_STYLE = f"<style>text{{fill:#000;font-family:{_FONT}}}</style>"
_UNUSED = re.compile(
    r' (?:role|class|aria-\w+|pointer-events|font-family)="[^"]*"| (?:stroke-)?opacity="1"'
    r'| fill="(?:#000|black)"| text-anchor="start"| stroke-width="1"'
    r'|<path [^>]*(?:display="none"|d="M0,0h0v0h0Z")/>'
)
"""What the SVG of Vega-Lite has for its own programs."""

Query = Callable[[str], list[dict[str, Any]]]


class TimeRange(NamedTuple):
    """A range in seconds of Unix time, and the faults in it: beginnings, ends and names."""

    start: float
    end: float
    faults: Sequence[tuple[float, float, str]] = ()

    @property
    def step(self) -> float:
        """The seconds between two points of a line."""
        return max((self.end - self.start) / _POINTS, 1)


def prometheus(url: str, times: TimeRange) -> Query:
    """Return a function that sends a query to a Prometheus, with the dashboard's variables."""

    def query(expression: str) -> list[dict[str, Any]]:
        expression = expression.replace("$tenant", ".*")
        expression = expression.replace("$__rate_interval", f"{max(4 * times.step, 15):.0f}s")
        values = {"query": expression, "start": times.start, "end": times.end, "step": times.step}
        address = f"{url}/api/v1/query_range?{urllib.parse.urlencode(values)}"
        with urllib.request.urlopen(address) as response:  # noqa: S310 - the caller's Prometheus
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    return query


def draw(query: Query, times: TimeRange, title: str) -> str:
    """Return the picture of all panels as SVG. Faults are shaded and numbered."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    lines = groupby(panels, key=lambda panel: panel["gridPos"]["y"])
    rows = [_draw_row([*line], query, times) for _, line in lines]
    names = [f"{number} {name}" for number, (*_, name) in enumerate(times.faults, 1)]
    names = ["; ".join(names[start : start + 5]) for start in range(0, len(names), 5)]
    heading = {"text": title, "subtitle": names, "fontSize": 16, "subtitleFontSize": 12}
    chart = {"$schema": _SCHEMA, "config": _CONFIG, "title": heading, "background": "#fff"}
    svg = vl_convert.vegalite_to_svg(chart | {"vconcat": rows, "spacing": 12})
    svg = _UNUSED.sub("", svg).replace(">", f">{_STYLE}", 1)
    return re.sub(r"\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}", svg)


def _draw_row(panels: list[dict[str, Any]], query: Query, times: TimeRange) -> dict[str, Any]:
    if panels[0]["type"] == "row":
        text = {"type": "text", "text": panels[0]["title"], "align": "left", "x": 0}
        mark = text | {"fontSize": 15, "fontWeight": 600}
        return {
            "data": {"values": [{}]},
            "mark": mark,
            "width": 1,
            "height": 12,
            "view": {"stroke": None},
        }
    charts = [_draw_panel(panel, query, times) for panel in panels]
    return {"hconcat": charts, "resolve": {"scale": {"color": "independent"}}, "spacing": 10}


def _draw_panel(panel: dict[str, Any], query: Query, times: TimeRange) -> dict[str, Any]:
    defaults, place = panel["fieldConfig"]["defaults"], panel["gridPos"]
    scale = {"type": "utc", "domain": [times.start * 1_000, times.end * 1_000]}
    x = {"field": "time", "type": "temporal", "scale": scale, "axis": _TIME_AXIS}
    # Vega-Lite cannot place a chart without samples.
    nothing = {"name": "no samples", "time": times.start * 1_000, "value": 0, "gap": 0}
    samples = [*_read_samples(panel, query, times)] or [nothing | {"end": nothing["time"]}]
    bands = samples if panel["type"] == "stat" else []
    if bands:
        bad = "datum.value < 1" if "mappings" in defaults else "datum.value > 0"
        color = {"condition": {"test": bad, "value": "#e02f44"}, "value": "#56a64b"}
        y: dict[str, Any] = {"field": "name", "type": "nominal", "scale": {"padding": 0.2}}
        drawing: dict[str, Any] = {
            "mark": "bar",
            "encoding": {"color": color, "x2": {"field": "end"}},
        }
    else:
        axis = {"format": _UNITS.get(defaults["unit"], "~s"), "tickCount": 4}
        y = {"field": "value", "type": "quantitative", "axis": axis}
        drawing = {
            "mark": "line",
            "encoding": {"color": {"field": "name", "type": "nominal"}, "detail": {"field": "gap"}},
        }
    drawing |= {"data": {"values": samples}}
    drawing["encoding"] |= {"x": x, "y": y}
    return {
        "title": panel["title"],
        "width": place["w"] * _COLUMN - 70,
        "height": max(place["h"] * _ROW, _LINE * len({sample["name"] for sample in bands})),
        "layer": [*_shade_faults(times, x), drawing],
    }


def _shade_faults(times: TimeRange, x: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"time": start * 1_000, "end": end * 1_000, "number": number}
        for number, (start, end, _) in enumerate(times.faults, 1)
    ]
    data, x2 = {"values": rows}, {"field": "end"}
    shade = {"type": "rect", "color": "#e02f44", "opacity": 0.12}
    text = {"type": "text", "align": "left", "y": -4, "fontSize": 9}
    return [
        {"data": data, "mark": shade, "encoding": {"x": x, "x2": x2}},
        {"data": data, "mark": text, "encoding": {"x": x, "text": {"field": "number"}}},
    ]


def _read_samples(
    panel: dict[str, Any], query: Query, times: TimeRange
) -> Iterator[dict[str, Any]]:
    """Yield where the lines of a panel begin and end to have a value. gap tells parts apart."""
    for target in panel["targets"]:
        for series in query(target["expr"]):
            name = target["legendFormat"]
            for label, text in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", text)
            points = [
                (float(text), round((time - times.start) / times.step) - number, time)
                for number, (time, text) in enumerate(series["values"])
            ]
            for (value, gap), run in groupby(points, key=lambda point: point[:2]):
                begin, *_ = moments = [time for *_, time in run]
                end = moments[-1] + times.step
                sample = {"name": name, "value": value, "gap": gap, "end": end * 1_000}
                if isfinite(value):
                    yield from (sample | {"time": time * 1_000} for time in (begin, end))
