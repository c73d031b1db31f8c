"""Writes the pages of reference that are made of the code, beside those of the contract.

docs/tenants.md is made of the fields of the tenant config, docs/reference/settings.md of the
service's settings, docs/reference/metrics.md of the families of metrics, and
docs/reference/events.md of the types of webhooks and of what the service writes into its log,
docs/reference/permissions.md of the AWS permissions that the service needs.
"""

import ast
import importlib
import inspect
import json
import pkgutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import worker.doctor
from worker.contract.json_schemas import event_classes
from worker.features import JOBS, contributions, settings_models
from worker.settings import PREFIX
from worker.shared.aws_permissions import all_permissions
from worker.shared.monitoring import PREFIX as METRIC_PREFIX
from worker.shared.monitoring import Family
from worker.tenants.toml_fields import config_type

ROOT = Path(__file__).parents[1]

_TENANTS = """\
# The fields of tenants.toml

`make contract` writes this page from `worker/rules/tenant_config.py`.
[`examples/tenants.toml`](../examples/tenants.toml) is a commented example. A dash stands for a
field that is unset by default.
"""
_TABLES = ("Bucket", "Tenant", "TenantKey", "Policy", "QuotaLimits", "WebhookEndpoint")


def tenants_page() -> str:
    """Return the page about tenants.toml, with a table for each kind of table in the file."""
    definitions = config_type().json_schema()["$defs"]
    lines = (line for name in _TABLES for line in _config_table(definitions[name]))
    return "\n".join([_TENANTS, *lines])


def _config_table(definition: dict[str, Any]) -> Iterator[str]:
    title, _, text = definition["description"].partition("\n\n")[0].partition(": ")
    yield f"## `{title}`\n\n{text[0].upper()}{text[1:]}\n"
    yield from _table_head("field", "default", "value")
    for name, field in definition["properties"].items():
        if "description" in field:
            is_required = name in definition.get("required", ())
            default = "required" if is_required else _json_default(field.get("default"))
            yield f"| `{name}` | {default} | {' '.join(field['description'].split())} |"
    yield ""


def _json_default(value: Any) -> str:
    return f"`{json.dumps(value)}`" if value or value is False else "—"


def _table_head(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"


_SETTINGS = """\
# Settings

`make contract` writes this page from the models of settings, of the core and of each feature. Each
setting is an environment variable, the same for every process.
[Settings](../operating.md#settings) says how they are read and checked. A dash stands for a setting
that is unset by default.
"""


def settings_page() -> str:
    """Return the page about the settings of the core and the features, in their order."""
    lines = [_SETTINGS, *_table_head("variable", "default", "meaning")]
    for model in settings_models():
        source = inspect.getsource(importlib.import_module(model.__module__))
        texts, defaults = _field_texts(source, model.__name__), model.model_construct()
        for name in model.model_fields:
            variable, default = f"{PREFIX}{name.upper()}", _default(getattr(defaults, name))
            lines.append(f"| `{variable}` | {default} | {texts[name]} |")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return "—" if value is None else f"`{str(value).lower()}`"


def _field_texts(source: str, class_name: str) -> dict[str, str]:
    """Return the docstring of each field of a class, on one line."""
    (body,) = (
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


_METRICS = """\
# Metrics

`make contract` writes this page from the code. [Metrics](../operating.md#metrics) says how to serve
them, and what the labels mean.
"""


def metrics_page() -> str:
    """Return the page about the metrics, by name."""
    lines = [_METRICS, *_table_head("metric", "type", "labels", "meaning")]
    for family in sorted(_families()):
        name = METRIC_PREFIX + family.name + "_total" * (family.type == "counter")
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.text} |")
    return "\n".join([*lines, ""])


def _families() -> set[Family]:
    """Return the families that are constants of worker/doctor and of what features contribute."""
    values: list[Any] = []
    own = pkgutil.iter_modules(worker.doctor.__path__, "worker.doctor.")
    contributed = (f"worker.{each.partition(':')[0]}" for each in contributions("metrics").values())
    for module in {*(module.name for module in own), *contributed}:
        for value in vars(importlib.import_module(module)).values():
            values += value.values() if isinstance(value, Mapping) else [value]
    values += [getattr(value, "metric", None) for value in values]
    return {value for value in values if isinstance(value, Family) and value.name}


_EVENTS = """\
# Events

`make contract` writes this page from the code.

## Webhooks

[Webhooks](../webhooks.md) says to whom each type is sent;
[`webhooks.schema.json`](../contract/webhooks.schema.json) has every field.
"""
_LOG = """
## Log lines

The service writes every line of its log to stderr as JSON. `event` is a name of this table, or a
text of a library. Each line has `timestamp`, `level`, `pid`, `host` and `release`.
"""
_LEVELS = {
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}
_NOTE = "note"  # worker.base.jobs.ProblemLog, which logs a warning once until the problem changes


def events_page() -> str:
    """Return the page about the types of webhooks, and the events in the service's log."""
    lines = [_EVENTS, *_table_head("type", "meaning")]
    for item in event_classes():
        text = (item.__doc__ or "").partition("\n")[0]
        lines.append(f"| `{item.model_fields['type'].default}` | {text} |")
    lines += [_LOG, *_table_head("event", "level", "written by")]
    for event, (levels, modules) in sorted(_log_events().items()):
        written_by = ", ".join(f"`{module}`" for module in sorted(modules))
        lines.append(f"| `{event}` | {', '.join(sorted(levels))} | {written_by} |")
    return "\n".join([*lines, ""])


def _log_events() -> dict[str, tuple[set[str], set[str]]]:
    """Return the levels and the modules of each event that the service logs."""
    events: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for path in sorted((ROOT / "worker").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for level, event in _logged(ast.parse(path.read_text(encoding="utf-8"))):
            levels, modules = events[event]
            levels.add(level)
            modules.add(module)
    for job in JOBS:  # what did something is logged at its end
        levels, modules = events[job.event]
        levels.add("info")
        modules.add(f"worker.{job.run.partition(':')[0]}")
    return events


def _logged(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the level and the name of each event that a module logs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _logged_by(node)


def _logged_by(function: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what a function logs. The name of an event may be a variable of the function."""
    nodes = list(ast.walk(function))
    names = {
        node.targets[0].id: node.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in nodes:
        level = _level(node.func) if isinstance(node, ast.Call) else None
        if level and isinstance(node, ast.Call) and node.args:
            event = node.args[0]
            event = names.get(event.id, event) if isinstance(event, ast.Name) else event
            yield from ((level, text) for text in _texts(event))


def _level(called: ast.expr) -> str | None:
    """Return the level of a method of a log, None for anything else."""
    if not isinstance(called, ast.Attribute):
        return None
    if called.attr == _NOTE:
        return "warning"
    return _LEVELS.get(called.attr) if ast.unparse(called.value) == "log" else None


def _texts(value: ast.expr) -> Iterable[str]:
    """Return the text, or the two texts between which an expression decides."""
    if isinstance(value, ast.IfExp):
        return [*_texts(value.body), *_texts(value.orelse)]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value.value]
    return []


_PERMISSIONS = """\
# AWS permissions

`make contract` writes this page from `worker/shared/aws_permissions.py`. These commands print
the documents for your `tenants.toml`, with the reason of each statement, for a shell, as JSON
(`--json`) or for Terraform (`--terraform`):

```sh
python -m worker permissions iam --file examples/tenants.toml
python -m worker permissions bucket --file examples/tenants.toml
python -m worker permissions cors --origin https://app.example.com --file examples/tenants.toml
python -m worker permissions lifecycle --file examples/tenants.toml
python -m worker permissions guardrails --file examples/tenants.toml
```

`python -m worker doctor` tries lists, reads, stores and aborts below up to ten prefixes, by
requests that change nothing, and names what storage denies. It does not try ACLs, tags, versions,
queues and keys; reads only where the credentials may list.
"""
_PROVEN = """
Objects are those below the prefixes of the tenants' policies. *The signer* is the role of the
bucket profile (`role_arn`), or the workers if it has none. *The workers* are the credentials of its
AWS profile (`profile`). Where a role signs, the workers need nothing in S3.

- **Each policy replaces the earlier one.** Give all options of `iam` each time. With `--profile`,
  it prints the whole policy of the credentials that this bucket profile uses.
- `s3:ListBucketMultipartUploads` has no condition for a prefix: whoever has it sees the keys of
  all unfinished uploads of the bucket. With a role, only a session for the cleanup has it.
- Whoever has the four actions on a role can change its permissions, up to its permissions
  boundary. Set a boundary, or give them to an operator alone: the upkeep worker then cannot repair
  or remove the policy on the role, and logs so.
- If many prefixes make a policy longer than AWS allows (6,144 characters, 10,240 for a role), it
  names whole buckets instead.
- `bucket` denies plain HTTP, version 2 of signatures, and signatures older than the longest
  lifetime. A bucket of another account than the role's must also allow the role.
- `lifecycle` ends unfinished uploads 8 days after the longest lifetime. If storage aborted them
  before the cleanup, which tries for a week, their bytes would stay in the quota.
- `guardrails` prints a policy of AWS Organizations, for the accounts of the buckets (`--as rcp`) or
  of the signers (`--as scp`). `--network` and `--vpc` limit where links may be used; `--principal`
  names who else may presign.
- Directory buckets, S3 Object Lambda, S3 on Outposts and R2 have other permissions: nothing is
  printed for them.

## What is proven

- `iam`: under moto's IAM, the service's calls work with the printed policy, and without any one
  action a feature is refused. Not proven: conditions, presigned requests, session policies,
  `s3:PutObjectAcl`, `s3:PutObjectTagging` and the actions of KMS.
- `bucket`: SeaweedFS refuses plain HTTP, and accepts new links. Ceph RGW 18.2.7, tried by hand,
  takes the policy and enforced none of it. No server of the tests enforces the statements about
  signatures.
- `cors`: SeaweedFS answers a browser's preflight from the page's origin, and from no other. So does
  Ceph RGW, tried by hand.
- `lifecycle`: both take the rules. Their effect is not tested.
- All: AWS's lists of actions, resources and conditions, boto3's model of the rules, and a parser
  of Terraform's language know what is printed. **Nothing was tried on AWS.**
"""
_PRINCIPALS = {"signer": "the signer", "workers": "the workers"}
_SCOPES = {
    "objects": "objects",
    "bucket": "the bucket",
    "listing": "the bucket, for names below a prefix",
    "key": "the key, used by S3",
    "queue": "the queue",
    "role": "the role",
}


def permissions_page() -> str:
    """Return the page about the AWS permissions, in the order of their table."""
    lines = [_PERMISSIONS, *_table_head("feature", "actions", "on", "who", "needed if", "because")]
    for item in all_permissions():
        actions = ", ".join(f"`{action}`" for action in item.actions)
        cells = (item.feature, actions, _SCOPES[item.scope], _PRINCIPALS[item.principal])
        lines.append(f"| {' | '.join(cells)} | {item.condition} | {item.reason} |")
    return "\n".join([*lines, _PROVEN])


PAGES = {
    "docs/tenants.md": tenants_page,
    "docs/reference/settings.md": settings_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/events.md": events_page,
    "docs/reference/permissions.md": permissions_page,
}


if __name__ == "__main__":
    for name, render in PAGES.items():
        (ROOT / name).write_text(render(), encoding="utf-8")
