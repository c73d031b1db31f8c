"""Checks everything that the service depends on, and tells the operator what to repair."""

from collections.abc import Iterator
from typing import Any

import click
from pydantic import ValidationError

from valetkey.cli.printable import escape_unprintable
from valetkey.cli.table_layout import print_hanging
from worker.commands.health import live
from worker.commands.health.broker_checks import broker_checks
from worker.commands.health.checks import Check, check_variables
from worker.commands.health.database_checks import database_checks
from worker.commands.output import print_rows
from worker.setting_names import unknown_variables
from worker.settings import Settings, setting_errors

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


_LIVE_DEFAULTS = {"yes": False, "prefix": live.DEFAULT_PREFIX, "internal": False}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per check.")
@click.option(
    "--live",
    "profiles",
    metavar="PROFILE",
    multiple=True,
    help="Try grants of this bucket profile in storage, instead of all other checks. Repeatable.",
)
@click.option("--offline", is_flag=True, help="Send no request to storage.")
@click.option("--yes", is_flag=True, help="With --live: do not ask for confirmation.")
@click.option(
    "--prefix",
    default=live.DEFAULT_PREFIX,
    show_default=True,
    callback=live.parse_prefix,
    help="With --live: store the objects below this prefix.",
)
@click.option(
    "--internal",
    is_flag=True,
    help="With --live: connect to the internal endpoints, with the host of links.",
)
@click.pass_context
def doctor(
    context: click.Context,
    /,
    *,
    as_json: bool,
    profiles: tuple[str, ...],
    offline: bool,
    **live_options: Any,
) -> None:
    """Check everything that the service needs, and say how to repair what is wrong.

    Run it where the workers run, with their environment: it uses their settings, credentials and
    secrets. Exits with 1 if a check failed, and with 2 if settings are wrong. Warnings alone exit
    with 0. Without a worker that issues grants, it fails: start one first.

    One signed GET request is sent to the storage of each bucket profile, which shows whether it
    accepts the credentials. Amazon charges some $0.0004 for 1,000 of them. --offline sends none.

    With --live, grants are used and misused in the bucket of a profile, and a table shows what
    storage accepts, refuses and does not enforce. The command asks first, deletes what it wrote,
    and exits with 1 unless every verdict is ok or not tried. docs/storage.md explains the checks.

    \b
    Examples:
      python -m worker doctor
      python -m worker doctor --live demo
    """
    if profiles and offline:
        raise click.UsageError("--live tries storage, which --offline excludes")
    if profiles:
        is_ok = live.check_storage(profiles, as_json=as_json, **live_options)
        context.exit(0 if is_ok else 1)
    if live_options != _LIVE_DEFAULTS:
        raise click.UsageError("--yes, --prefix and --internal need --live PROFILE")
    context.exit(_check_service(offline=offline, as_json=as_json))


def _check_service(*, offline: bool, as_json: bool) -> int:
    """Run the checks and print each at once; return the exit code."""
    checks = []
    for check in _run_checks(offline=offline):
        checks.append(check)
        if as_json:
            print_rows(Check._fields, [check], "json")
        else:
            _print_check(check)
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    if not as_json:
        click.echo(f"\n{len(checks)} checks: {failed} failed, {warned} warnings.")
    return _exit_code(checks)


def _print_check(check: Check) -> None:
    state = click.style(f"{check.state:5}", fg=_COLOURS[check.state], bold=check.state != "ok")
    print_hanging(f"{state} {check.check:9} ", escape_unprintable(check.message))
    if check.hint:
        print_hanging(f"{'':15} → ", check.hint)


def _exit_code(checks: list[Check]) -> int:
    failed = {check.check for check in checks if check.state == "fail"}
    return 2 if "settings" in failed else 1 if failed else 0


def _run_checks(*, offline: bool) -> Iterator[Check]:
    try:
        settings = Settings()
    except ValidationError as error:
        for text in setting_errors(error):
            yield Check("settings", "fail", text, "docs/operating.md, Settings, describes them all")
        yield from check_variables(unknown_variables())
        return
    yield Check("settings", "ok", "readable")
    yield from check_variables(unknown_variables())
    yield from database_checks(settings, offline=offline)
    yield from broker_checks(settings)
