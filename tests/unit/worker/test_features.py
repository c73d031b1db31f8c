"""The list of features: what makes it invalid, and that all it names exists."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn, get_args

import pytest
from structlog.testing import capture_logs

from tests.support.features import needs
from valetkey.wire.messages import Ask
from worker import features, hooks
from worker.broker.queues import QUEUES_BY_ROLE
from worker.feature import Feature, HookName, Job, Role, Task
from worker.features import FEATURES, REQUEST_FIELDS, load_features, resolve
from worker.issue import dispatch, feature_check


def add_packages(monkeypatch: pytest.MonkeyPatch, *added: Feature) -> None:
    """Make features importable, as packages of the worker."""
    for feature in added:
        module: Any = ModuleType(f"worker.{feature.name}.feature")
        module.FEATURE = feature
        monkeypatch.setitem(sys.modules, module.__name__, module)
    names = {f"worker.{feature.name}{end}" for feature in added for end in ("", ".feature")}
    monkeypatch.setattr(features, "find_spec", lambda name: name in names or find_spec(name))


def problem(capsys: pytest.CaptureFixture[str], *names: str) -> str:
    """Return the sentence with which the process ends for a list of these names."""
    with pytest.raises(SystemExit) as ended:
        load_features(names)
    assert ended.value.code == 2
    return capsys.readouterr().err.removeprefix("Error: worker/features.py: ")


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        ("commands", {"pack": "a:b"}, "pack"),
        ("tasks", {"valetkey.pack": Task(("q",))}, "valetkey.pack"),
        ("jobs", (Job("pack", "packed", "a:b"),), "pack"),
        ("roles", {"packer": Role("a", "a:b", "packs", "ever")}, "packer"),
        ("asks", {"pack": "a:b"}, "pack"),
        ("tables", {"packs": "worker"}, "packs"),
        ("request_fields", ("pack",), "pack"),
        ("tenant_fields", ("tenants.pack",), "tenants.pack"),
    ],
)
def test_two_features_with_the_same_contribution_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
    value: Any,
    name: str,
) -> None:
    add_packages(
        monkeypatch, Feature(name="one", **{part: value}), Feature(name="two", **{part: value})
    )
    places = "worker/one/feature.py and worker/two/feature.py"
    assert problem(capsys, "one", "two") == f"{places} both have {name!r} in {part}: rename one.\n"


def test_a_feature_cannot_take_the_place_of_the_core(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_packages(monkeypatch, Feature(name="one", asks={"grants": "a:b"}))
    assert problem(capsys, "one").startswith("worker/core.py and worker/one/feature.py both have")


def test_a_hook_of_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown: Any = {"decide": "a:b"}
    add_packages(monkeypatch, Feature(name="one", hooks=unknown))
    expected = (
        "worker/one/feature.py has the unknown hook decide: see HookName in worker/feature.py.\n"
    )
    assert problem(capsys, "one") == expected


@pytest.mark.parametrize(
    ("needs", "names", "sentence"),
    [
        ({"one": ("two",), "two": ("one",)}, ("one", "two"), "one needs two, which comes later"),
        ({"one": ("two",), "two": ()}, ("one", "two"), "one needs two, which comes later"),
        ({"one": ("two",)}, ("one",), "one needs two, which is not in the list"),
    ],
    ids=["circle", "order", "absent"],
)
def test_a_feature_comes_after_those_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    needs: Mapping[str, tuple[str, ...]],
    names: tuple[str, ...],
    sentence: str,
) -> None:
    add_packages(monkeypatch, *(Feature(name=name, needs=needs[name]) for name in needs))
    assert problem(capsys, *names).startswith(sentence)


def test_a_package_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        problem(capsys, "one") == "the list has one, but there is no file worker/one/feature.py.\n"
    )


def test_a_core_package_in_the_list_is_no_feature(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "the list has ledger, but there is no file worker/ledger/feature.py.\n"
    assert problem(capsys, "ledger") == expected


def test_a_feature_that_is_listed_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert problem(capsys, "quota", "quota") == "the list has quota twice: remove one.\n"


def test_a_feature_that_cannot_be_imported_is_named_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: str) -> NoReturn:
        raise NameError("name 'Job' is not defined")

    monkeypatch.setattr(features, "import_module", fail)
    expected = "worker/quota/feature.py cannot be imported: NameError: name 'Job' is not defined.\n"
    assert problem(capsys, "quota") == expected


def test_a_job_of_an_unknown_task_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job("pack", "packed", "a:b", "valetkey.pack")
    add_packages(monkeypatch, Feature(name="one", jobs=(job,)))
    expected = "worker/one/feature.py has the job pack of valetkey.pack, which is no task.\n"
    assert problem(capsys, "one") == expected


def test_each_task_of_a_feature_has_queues_that_workers_read() -> None:
    queues = {queue for queues in QUEUES_BY_ROLE.values() for queue in queues}
    assert {queue for task in features.TASKS.values() for queue in task.queues} <= queues


def test_no_role_of_a_feature_takes_the_name_of_a_role_of_the_core() -> None:
    assert not features.ROLES.keys() & QUEUES_BY_ROLE.keys()


def test_each_handler_is_for_an_ask_that_the_wire_has() -> None:
    assert feature_check.HANDLERS.keys() <= set(get_args(Ask))


@needs("audit")  # The group "audit" has commands of other features, which go with it.
def test_each_command_of_two_words_is_in_a_group_that_has_help() -> None:
    words = (words.split() for words in features.contributions("commands"))
    groups = {each[0] for each in words if len(each) == 2 and not each[1].startswith("-")}
    assert groups <= features.contributions("groups").keys()


def references() -> Iterator[Any]:
    """Yield all references of all features, with the part of the feature that has them."""
    for feature in FEATURES:
        named = [job.run for job in feature.jobs]
        named += [task.run for task in feature.tasks.values() if task.run]
        named += [role.is_needed for role in feature.roles.values()]
        named += [*feature.starts]
        for part in fields(feature):
            value = getattr(feature, part.name)
            values = value.values() if isinstance(value, Mapping) else [value]
            named += [each for each in values if isinstance(each, str) and ":" in each]
        yield from (pytest.param(name, id=f"{feature.name}-{name}") for name in sorted(set(named)))


@pytest.mark.parametrize("reference", list(references()))
def test_what_a_feature_refers_to_exists(reference: str) -> None:
    assert resolve(reference) is not None


@pytest.mark.parametrize("name", get_args(HookName))
def test_the_functions_of_a_hook_take_what_the_core_gives(name: HookName) -> None:
    expected = inspect.signature(getattr(hooks, name))
    for function in features.hook_functions(name):
        taken = inspect.signature(function).parameters
        given = expected.parameters
        assert [each.annotation for each in taken.values()] == [
            each.annotation for each in given.values()
        ]
        names = [each.lstrip("_") for each in taken]
        assert names == list(given)


def test_the_service_lists_no_ask_of_an_absent_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HANDLERS", {"service": "a:b"})
    assert dispatch.describe_service("acme").asks == ["service"]


def test_the_fields_that_a_service_may_run_without_are_those_that_features_carry_out() -> None:
    assert set(feature_check.OPTIONAL_FIELDS) >= REQUEST_FIELDS


def test_the_result_stands_if_a_hook_after_the_commit_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    def fail(*_: Any) -> None:
        raise ValueError

    def note(_message: Any, _tenant: Any, trigger: Callable[[str], None]) -> None:
        trigger("valetkey.next")

    monkeypatch.setattr(hooks, "hook_functions", lambda _: (fail, note))
    message: Any = None
    with capture_logs() as logs:
        hooks.committed(message, message, called.append)
    assert called == ["valetkey.next"]
    assert [line["event"] for line in logs] == ["committed_hook_failed"]
