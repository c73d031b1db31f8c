"""Tables of quotas and of policy rules, also as JSON."""

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from valetkey.cli.descriptions import describe_cause, escape_unprintable
from valetkey.units import describe_duration, describe_size, format_amount
from valetkey.wire.refusals import QuotaState
from valetkey.wire.replies import Explanation, RuleVerdict
from valetkey.wire.service import ServiceInfo

_BAR_COLUMNS = 20
_SECONDS = frozenset({"max_message_age", "max_clock_skew", "max_expires_in"})
_DEFAULT_COLUMNS = 200  # the width if stdout is not a terminal

_DECISIONS = {"issue": "issued", "refuse": "refused"}


def show_quotas(quotas: Iterable[QuotaState], output_format: str | None) -> None:
    """Print a table of quotas with a bar for each, or one JSON object a line."""
    if output_format == "json":
        for quota in quotas:
            click.echo(json.dumps(_quota_values(quota)))
        return
    rows = [_quota_row(quota) for quota in quotas]
    _print_table(("quota", "", "used", "limit", "left", "resets at (UTC)"), rows)


def show_explanation(explanation: Explanation, output_format: str | None) -> None:
    """Print each rule's verdict and the decision, or all of it as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(explanation.model_dump(mode="json")))
        return
    rows = [_rule_row(verdict) for verdict in explanation.rules]
    _print_table(("rule", "verdict", "detail"), rows)
    decision = _DECISIONS.get(explanation.decision, explanation.decision)
    click.echo(f"\nIt would be {escape_unprintable(decision)}.")


def show_service(service: ServiceInfo, output_format: str | None) -> None:
    """Print the versions, kinds and limits of the service, or all of them as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(service.model_dump(mode="json")))
        return
    versions = ", ".join(map(str, service.versions))
    rows: list[tuple[RenderableType, ...]] = [
        ("release", "not told" if service.release is None else service.release),
        ("wire versions", versions),
        ("asks", ", ".join(service.asks)),
        ("kinds", ", ".join(service.kinds)),
        *((name, _limit_text(name, value)) for name, value in service.limits),
    ]
    _print_table(("service", ""), [tuple(map(escape_unprintable, map(str, row))) for row in rows])


def _limit_text(name: str, value: int) -> str:
    if name.endswith("_bytes"):
        return describe_size(value)
    return describe_duration(value) if name in _SECONDS else f"{value:,}"


def _quota_values(quota: QuotaState) -> dict[str, Any]:
    return quota.model_dump(mode="json", exclude={"asked"}) | {"left": quota.left}


def _quota_row(quota: QuotaState) -> tuple[RenderableType, ...]:
    name = escape_unprintable(f"{quota.metric}.{quota.window}")
    style = "red" if quota.left == 0 else "yellow" if quota.warns else "green"
    bar = ProgressBar(quota.limit, quota.used, width=_BAR_COLUMNS, complete_style=style)
    bar.finished_style = style
    amounts = (format_amount(quota.metric, n) for n in (quota.used, quota.limit, quota.left))
    resets_at = f"{quota.resets_at:%Y-%m-%d %H:%M}" if quota.resets_at else "as grants expire"
    return (name, bar, *amounts, resets_at)


def _rule_row(verdict: RuleVerdict) -> tuple[RenderableType, ...]:
    rule, detail = escape_unprintable(verdict.rule), escape_unprintable(verdict.found)
    if verdict.refusal is None:
        return (rule, Text("ok", "green"), detail)
    reason = describe_cause(verdict.refusal)
    return (rule, Text("refused", "red"), f"{detail}: {reason}" if detail else reason)


def _print_table(headings: Iterable[str], rows: Iterable[tuple[RenderableType, ...]]) -> None:
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _DEFAULT_COLUMNS
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(table)
