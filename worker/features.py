"""The list of features. Whatever lists their commands, tasks, tables and so on derives from it.

A feature is a package with a module `feature`, whose FEATURE says all that it contributes. To
delete one, delete its line here, its package, and those that need it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn, get_args

from worker.core import CORE
from worker.feature import Feature, HookName, Job, Reference, Role, Task

# Hooks run in this order. A feature comes after those that it needs.
NAMES = (
    "quota",
    "cancel",
    "aborts",
    "webhooks",
    "audit",
    "uses",
    "revoke",
    "reissue",
    "explain",
    "contract",
    "proof",
    "whose",
    "export",
    "erasure",
    "report",
    "scripting",
    "doctor",
    "permissions",
    "live",
    "backup",
    "dev",
)


def load_features(names: tuple[str, ...]) -> tuple[Feature, ...]:
    """Import the value of each feature, but none of its other modules.

    Ends the process with the exit code 2 if two of them contribute the same, if one is missing,
    cannot be imported or needs one that does not come before it, or if one has a hook of an unknown
    name or a job of an unknown task.
    """
    for name in names:
        if names.count(name) > 1:
            _end(f"the list has {name} twice: remove one")
    features = (CORE, *map(_load, names))
    for part, owners in _CONTRIBUTIONS.items():
        _check_once(part, features, owners)
    tasks = {name for feature in features for name in feature.tasks}
    known: set[str] = set()
    for feature in features:
        _check(feature, known, tasks, names)
        known.add(feature.name)
    return features


def _load(name: str) -> Feature:
    if find_spec(f"worker.{name}") is None or find_spec(f"worker.{name}.feature") is None:
        _end(f"the list has {name}, but there is no file worker/{name}/feature.py")
    try:
        feature = getattr(import_module(f"worker.{name}.feature"), "FEATURE", None)
    except Exception as error:  # noqa: BLE001 - any mistake in it
        _end(f"worker/{name}/feature.py cannot be imported: {type(error).__name__}: {error}")
    if not isinstance(feature, Feature) or feature.name != name:
        _end(f"worker/{name}/feature.py has no FEATURE of the name {name}")
    return feature


def _check(feature: Feature, known: set[str], tasks: set[str], names: tuple[str, ...]) -> None:
    for needed in feature.needs:
        if needed not in known:
            _end(f"{feature.name} needs {needed}, which {_place(needed, names)}")
    for hook in feature.hooks:
        if hook not in get_args(HookName):
            place = _module(feature)
            _end(f"{place} has the unknown hook {hook}: see HookName in worker/feature.py")
    for job in feature.jobs:
        if job.task not in tasks:
            _end(f"{_module(feature)} has the job {job.name} of {job.task}, which is no task")


def _place(needed: str, names: tuple[str, ...]) -> str:
    if needed in names:
        return "comes later in the list: move it up, or remove the circle"
    return "is not in the list: add it, or remove the feature as well"


_SINGLE = (
    *("settings", "tenant_rules", "in_use", "find_service"),
    *("database_checks", "service_checks", "story", "story_lines", "own_prefixes"),
)
_CONTRIBUTIONS: Mapping[str, Callable[[Feature], Any]] = {
    part.name: lambda feature, name=part.name: getattr(feature, name)
    for part in fields(Feature)
    if part.name not in {"name", "needs", "page", "starts", "hooks", *_SINGLE}
} | {"jobs": lambda feature: [job.name for job in feature.jobs]}


def _check_once(
    part: str, features: tuple[Feature, ...], names_of: Callable[[Feature], Any]
) -> None:
    owners: dict[str, Feature] = {}
    for feature in features:
        for name in names_of(feature):
            if name in owners:
                places = f"{_module(owners[name])} and {_module(feature)}"
                _end(f"{places} both have {name!r} in {part}: rename one")
            owners[name] = feature


def _module(feature: Feature) -> str:
    return "worker/core.py" if feature is CORE else f"worker/{feature.name}/feature.py"


def _end(problem: str) -> NoReturn:
    sys.stderr.write(f"Error: worker/features.py: {problem}.\n")
    sys.exit(2)


FEATURES = load_features(NAMES)
"""The core and all features, in the order of the list."""


@cache
def resolve(reference: Reference) -> Any:
    """Import what a reference names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(f"worker.{module}"), name)


def contributions(part: str) -> dict[str, Any]:
    """Return what all features give to one of the mappings of Feature, by name."""
    return {name: value for feature in FEATURES for name, value in getattr(feature, part).items()}


def settings_models(features: tuple[Feature, ...] = FEATURES) -> tuple[Any, ...]:
    """Import the models of settings. Ends the process if two have the same setting."""
    models = {each.name: resolve(each.settings) for each in features if each.settings}
    fields_of = {name: model.model_fields for name, model in models.items()}
    _check_once("settings", features, lambda feature: fields_of.get(feature.name, ()))
    return tuple(models.values())


def load_each(part: str) -> Iterator[Any]:
    """Yield what the features that have a part, which is a single reference, give with it."""
    for feature in FEATURES:
        reference = getattr(feature, part)
        if reference is not None:
            yield resolve(reference)


JOBS: tuple[Job, ...] = tuple(job for feature in FEATURES for job in feature.jobs)
TASKS: Mapping[str, Task] = contributions("tasks")
ROLES: Mapping[str, Role] = contributions("roles")
REQUEST_FIELDS = frozenset(field for feature in FEATURES for field in feature.request_fields)


@cache
def hook_functions(name: HookName) -> tuple[Callable[..., Any], ...]:
    """Return the functions of a hook, in the order of the list."""
    return tuple(resolve(feature.hooks[name]) for feature in FEATURES if name in feature.hooks)


def load_hooks() -> None:
    """Import the functions of all hooks and messages, which child processes then share."""
    for feature in FEATURES:
        for reference in (*feature.hooks.values(), *feature.asks.values()):
            resolve(reference)


def command_groups() -> dict[str, dict[str, Reference]]:
    """Return the commands by their group, which is empty for commands of their own.

    A command whose group belongs to no feature of the list is left out.
    """
    groups: dict[str, dict[str, Reference]] = {name: {} for name in ("", *contributions("groups"))}
    for words, reference in sorted(contributions("commands").items()):
        group, _, name = words.rpartition(" ")
        if group in groups:
            groups[group][name] = reference
    return groups
