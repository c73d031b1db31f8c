"""The command `doctor`, which checks all that the service depends on; `--live` tries grants too."""

from collections.abc import Callable, Iterator
from typing import Any

import click
from pydantic import ValidationError

from valetkey.cli.terminal_text import escape_unprintable, print_hanging
from worker.cli.command_options import with_programs
from worker.doctor.checks import find_runbook
from worker.doctor.database_checks import database_checks
from worker.doctor.queue_checks import broker_checks
from worker.features import contributions, resolve
from worker.settings import Settings, check_settings, setting_errors, unknown_variables
from worker.shared.monitoring import Check
from worker.shared.output import print_rows

_STATE_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


_LIVE = "doctor --live"


def _with_live_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the feature that tries grants, if it is in the list."""
    add = contributions("commands").get(_LIVE)
    return command if add is None else resolve(add)(command)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per check.")
@click.option("--offline", is_flag=True, help="Send no request to storage.")
@_with_live_options
@click.pass_context
def doctor(
    context: click.Context,
    /,
    *,
    as_json: bool,
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
    check_live = live_options.pop("check_live", None)
    if check_live is not None:
        is_ok = check_live(as_json=as_json, offline=offline, **live_options)
        if is_ok is not None:
            context.exit(0 if is_ok else 1)
    context.exit(_check_service(offline=offline, as_json=as_json))


def _check_service(*, offline: bool, as_json: bool) -> int:
    """Run the checks and print each at once; return the exit code."""
    checks = []
    for check in _run_checks(offline=offline):
        checks.append(check)
        if as_json:
            print_rows((*Check._fields, "runbook"), [(*check, find_runbook(check))], "json")
        else:
            _print_check(check)
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    if not as_json:
        click.echo(f"\n{len(checks)} checks: {failed} failed, {warned} warnings.")
        _print_runbooks(checks)
    wrong = {check.check for check in checks if check.state == "fail"}
    return 2 if "settings" in wrong else 1 if wrong else 0


def _print_runbooks(checks: list[Check]) -> None:
    """Print each page that helps, those for failures first, with the checks that it is for."""
    pages: dict[str, dict[str, None]] = {}
    for check in sorted(checks, key=lambda check: check.state != "fail"):
        if page := find_runbook(check):
            pages.setdefault(page, {})[check.check] = None
    for page, names in pages.items():
        click.echo(f"See {page} ({', '.join(names)}).")


def _print_check(check: Check) -> None:
    state = click.style(
        f"{check.state:5}", fg=_STATE_COLOURS[check.state], bold=check.state != "ok"
    )
    print_hanging(f"{state} {check.check:9} ", escape_unprintable(check.message))
    if check.hint:
        print_hanging(f"{'':15} → ", with_programs(check.hint))


def _run_checks(*, offline: bool) -> Iterator[Check]:
    try:
        check_settings()
        settings = Settings()
    except ValidationError:
        for text in setting_errors():
            yield Check("settings", "fail", text)
        yield from _variable_checks()
        return
    yield Check("settings", "ok", "readable")
    yield from _variable_checks()
    yield from database_checks(settings, offline=offline)
    yield from broker_checks(settings)


def _variable_checks() -> Iterator[Check]:
    """Warn of variables that nothing reads."""
    for name, suggestion in unknown_variables():
        hint = f"did you mean {suggestion}?" if suggestion else None
        yield Check("settings", "warn", f"{name} is unknown, and has no effect", hint)
