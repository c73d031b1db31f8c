"""The commands that print the same figures as a section of the report."""

import shlex

from markupsafe import Markup

from worker.audit_report.figures import Scope

_PROGRAM = "python -m worker"


def render_command(words: str, scope: Scope | None = None, *, has_zone: bool = False) -> Markup:
    """Render a command, with the range and the filters of a report if they are given.

    has_zone adds the time zone, for figures by hour, day or month.
    """
    options = _scope_options(scope, has_zone=has_zone) if scope else ""
    return Markup('<p class="quiet command">The same figures: <code>{}</code></p>').format(
        f"{_PROGRAM} {words}{options}"
    )


def tenant_option(scope: Scope) -> str:
    """Return the option that selects the report's tenant, after a space, if it has one."""
    return f" {shlex.join(['--tenant', scope.tenant])}" if scope.tenant else ""


def _scope_options(scope: Scope, *, has_zone: bool) -> str:
    options = {
        "--since": scope.since.astimezone(scope.zone).isoformat(),
        "--until": scope.until.astimezone(scope.zone).isoformat(),
        "--tz": scope.zone_name if has_zone else None,
        "--tenant": scope.tenant,
        "--bucket": scope.bucket,
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    return f" {shlex.join(words)}"
