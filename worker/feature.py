"""The value that describes a feature to the service: all that it contributes, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Reference = str
"""A function, class or value as "module:name" in the package worker, imported on first use."""

Writer = Literal["worker", "operator", "owner"]
"""The role of PostgreSQL that may write a table: workers and operators, operators, or its owner."""

HookName = Literal[
    "prepare",
    "decided",
    "released",
    "given_back",
    "withdrawn",
    "committed",
    "batch_state",
    "sessions_from",
]
"""The hooks of the core; worker.hooks says what each is called with, and what it may cost."""

UPKEEP_TASK = "valetkey.upkeep"


class Job(NamedTuple):
    """Work of the upkeep worker, in a thread of its own: (context, run) -> counts.

    Every sweep starts it, and so does its task. Counts that are not 0 are logged under `event`.
    It runs once in `seconds` at most.
    """

    name: str
    event: str
    run: Reference
    task: str = UPKEEP_TASK
    seconds: float = 0.0


class Task(NamedTuple):
    """A Celery task: (context) -> result, kept for result_seconds.

    queues are those from which it is accepted; the first one is its route. Without `run`, it starts
    the jobs that name it.
    """

    queues: tuple[str, ...]
    run: Reference | None = None
    result_seconds: int = 0


class Role(NamedTuple):
    """A process of `worker run`: `python -m MODULE LEVEL`.

    It starts by `--only`, or once is_needed, which is (config) -> bool, returns true. help is its
    work and condition that condition in words, for the help of that option.
    """

    module: str
    is_needed: Reference
    help: str
    condition: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A package of the worker that takes part in the service by what it gives here.

    name: the package, and the feature in all messages.
    needs: the features whose modules it imports, and without which it does not work.
    page: the page of the documentation.
    groups: the help of groups of commands. commands: by their words. A command in the group of
    another feature exists only with that feature. One of an option, like "doctor --live", is called
    by that command. standalone: commands for which no running service is looked for.
    without_settings: commands that warn of no unknown variable. find_service:
    (environ, folder) -> FoundService or None, the service that other commands use without settings.
    tasks: by name. jobs, roles: see there. starts: (connect to the result store) -> what each
    process of a worker starts and stops.
    asks: handlers of messages by `ask`: (message, sender, config, context) -> Reply.
    request_fields: fields of a request that it carries out. Without it they are refused.
    in_use: (connection) -> numbers that the removal of an endpoint drops, by tenant id and name.
    actions: tuples of Permission, what it does in AWS, in the order of their names.
    tables: who may write them. settings: a model of pydantic-settings.
    tenant_fields: fields of tenants.toml that it carries out, as TABLE.FIELD. Without it they are
    refused. tenant_rules: (tenant) -> conflicts in the file.
    events: (connection, delivery, chunk) -> the UploadNews that webhooks of a type report.
    checks: the page below docs/ that helps with each check of `doctor`, by the name of the check.
    database_checks: (connection, config, now) -> Check. service_checks: (config, *, offline) ->
    Check, with requests to other servers unless offline.
    metrics: (connection, now, window) -> metrics of the database, in the order of their names: the
    cheapest come first, as all share a limit of time.
    story: (connection, StorySubject) -> values that it adds to the story of a grant or a batch.
    story_lines: (story) -> what `audit show` prints of these: (label, text or None).
    own_prefixes: () -> the prefixes that it uses itself, by bucket profile.
    hooks: see worker.hooks.
    """

    name: str
    needs: tuple[str, ...] = ()
    page: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, Reference] = field(default_factory=dict)
    standalone: tuple[str, ...] = ()
    without_settings: tuple[str, ...] = ()
    find_service: Reference | None = None
    tasks: Mapping[str, Task] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)
    starts: tuple[Reference, ...] = ()
    asks: Mapping[str, Reference] = field(default_factory=dict)
    request_fields: tuple[str, ...] = ()
    in_use: Reference | None = None
    actions: Mapping[str, Reference] = field(default_factory=dict)
    tables: Mapping[str, Writer] = field(default_factory=dict)
    settings: Reference | None = None
    tenant_fields: tuple[str, ...] = ()
    tenant_rules: Reference | None = None
    events: Mapping[str, Reference] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    database_checks: Reference | None = None
    service_checks: Reference | None = None
    metrics: Mapping[str, Reference] = field(default_factory=dict)
    story: Reference | None = None
    story_lines: Reference | None = None
    own_prefixes: Reference | None = None
    hooks: Mapping[HookName, Reference] = field(default_factory=dict)
