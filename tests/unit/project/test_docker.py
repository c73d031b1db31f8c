"""docker-compose.yml, the Dockerfile, and what the image contains."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import celeryconfig
from tests.support.docs.command_lines import ROOT, parse_command
from tests.support.docs.python_imports import imported_packages
from valetkey.cli.main import main as valetkey
from worker.__main__ import main
from worker.broker.queues import QUEUES_BY_ROLE
from worker.features import settings_models
from worker.rules.tenant_config import TenantConfig
from worker.run import run
from worker.tenants.tenants_file import read_tenants_file
from worker.uses.feature import EVENTS_ROLE

SCHEMA = json.loads((ROOT / "tests/support/compose/compose-spec.json").read_text(encoding="utf-8"))
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(VARIABLE.sub(r"\2", TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_SERVICES = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = [name for name, service in OWN_SERVICES.items() if service["command"][0] == "run"]
ENVIRONMENT: dict[str, str] = OWN_SERVICES["worker"]["environment"]


def test_the_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator(SCHEMA).validate(COMPOSE)


def test_every_variable_has_a_default() -> None:
    assert "${" not in VARIABLE.sub("", TEXT)


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OWN_SERVICES.keys()))
def test_an_image_is_pinned_by_a_tag_and_a_digest(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z/]+:(?!latest)[\w.-]+@sha256:[0-9a-f]{64}", image)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_privileges_and_writes_only_to_its_volume_and_to_memory(name: str) -> None:
    service = SERVICES[name]
    expected = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "read_only": True}
    assert {key: service[key] for key in expected} == expected
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - in the container


def test_our_services_run_as_the_user_of_the_image() -> None:
    users = {service["user"] for service in OWN_SERVICES.values()}
    assert users == {last_arguments("USER")}


def test_nothing_is_reachable_from_another_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_a_service_runs_a_command_that_exists(name: str, tmp_path: Path) -> None:
    service = OWN_SERVICES[name]
    (tmp_path / "tenants.toml").touch()
    targets = {mount["target"] for mount in service.get("volumes", ())}
    words = [str(tmp_path / "tenants.toml") if w in targets else w for w in service["command"]]
    program = main if service.get("entrypoint") is None else valetkey
    assert service.get("entrypoint") in (None, ["valetkey"])
    parse_command(program, words)


def test_the_tenants_file_is_mounted_read_only_and_never_created() -> None:
    (mount,) = SERVICES["apply"]["volumes"]
    assert (ROOT / mount["source"]).is_file()
    assert mount["target"] in SERVICES["apply"]["command"]
    assert mount["read_only"] is True
    assert mount["bind"] == {"create_host_path": False}


def test_links_have_the_published_port_of_storage_and_workers_call_its_container() -> None:
    (port,) = SERVICES["seaweedfs"]["ports"]
    public, _, container_port = port.rpartition(":")
    assert ENVIRONMENT["VALETKEY_S3_ENDPOINT"] == f"http://{public}"
    assert ENVIRONMENT["VALETKEY_S3_INTERNAL_ENDPOINT"] == f"http://seaweedfs:{container_port}"


def test_a_producer_gets_neither_the_database_nor_the_keys_of_storage() -> None:
    names = OWN_SERVICES["valetkey"]["environment"].keys()
    assert names == {f"VALETKEY_{word}" for word in ("BROKER_URL", "RESULT_URL", "TENANT", "KEY")}


def test_the_workers_together_consume_every_queue() -> None:
    roles = next(option.type for option in run.params if option.name == "only")
    assert isinstance(roles, click.Choice)
    worker_roles = {SERVICES[name]["command"][-1] for name in WORKERS}
    assert worker_roles <= set(roles.choices)
    assert EVENTS_ROLE in worker_roles
    consumed = {queue for role in worker_roles - {EVENTS_ROLE} for queue in QUEUES_BY_ROLE[role]}
    assert consumed == {queue for queues in QUEUES_BY_ROLE.values() for queue in queues}


@pytest.mark.parametrize("name", sorted(OWN_SERVICES.keys() - {"valetkey"}))
def test_a_service_gets_settings_that_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        variable.removeprefix("VALETKEY_").lower(): value
        for variable, value in OWN_SERVICES[name]["environment"].items()
        if variable.startswith("VALETKEY_")
    }
    fields = {name for model in settings_models() for name in model.model_fields}
    assert variables.keys() <= fields
    for variable, value in variables.items():
        monkeypatch.setenv(f"VALETKEY_{variable.upper()}", value)
    assert {
        name for model in settings_models() for name in model().model_fields_set
    } >= variables.keys()


def test_secrets_are_the_same_on_both_sides() -> None:
    assert SERVICES["seaweedfs"]["environment"].items() <= ENVIRONMENT.items()
    assert ENVIRONMENT["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]


def test_defaults_say_that_they_are_for_development() -> None:
    names = ("PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert {ENVIRONMENT[name] for name in names} == {"development-only"}


def dependencies() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for dependency, options in service.get("depends_on", {}).items():
            yield name, dependency, options["condition"]


def test_every_condition_of_a_dependency_can_be_met() -> None:
    for _, dependency, condition in dependencies():
        service = SERVICES[dependency]
        if condition == "service_healthy":
            assert "healthcheck" in service
        else:
            assert (condition, service["restart"]) == ("service_completed_successfully", "no")


def test_the_order_is_migrate_apply_run() -> None:
    pairs = {(name, dependency) for name, dependency, _ in dependencies()}
    assert pairs >= {("migrate", "postgres"), ("apply", "migrate")}
    assert pairs >= {(name, dependency) for name in WORKERS for dependency in ("apply", "redis")}


@pytest.mark.parametrize("name", SERVICES)
def test_a_one_time_command_is_not_restarted_and_a_server_is(name: str) -> None:
    is_one_time_command = name in OWN_SERVICES.keys() - {*WORKERS, "metrics"}
    assert SERVICES[name]["restart"] == ("no" if is_one_time_command else "unless-stopped")


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_enough_time_to_stop(name: str) -> None:
    seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert seconds >= max(20, 2 * celeryconfig.worker_soft_shutdown_timeout)


def test_redis_keeps_waiting_messages() -> None:
    words = SERVICES["redis"]["command"]
    assert words[words.index("--appendonly") + 1] == "yes"
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"
    assert re.fullmatch(r"[1-9]\d*gb", words[words.index("--maxmemory") + 1])


@pytest.mark.parametrize("name", WORKERS)
def test_a_health_check_of_a_worker_is_a_command_that_exists(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    assert (kind, words[:3]) == ("CMD", ["python", "-m", "worker"])
    parse_command(main, words[3:])


def test_every_path_exists_and_every_volume_is_defined() -> None:
    builds = {(service["build"], service["image"]) for service in OWN_SERVICES.values()}
    assert builds == {(".", "valetkey:development")}
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    volumes = {mount.partition(":")[0] for mount in mounts if isinstance(mount, str)}
    assert volumes == COMPOSE["volumes"].keys()


def test_storage_has_the_bucket_of_the_example() -> None:
    config = read_tenants_file(ROOT / "examples" / "tenants.toml")
    assert isinstance(config, TenantConfig)
    buckets = ",".join(bucket.bucket for bucket in config.buckets.values())
    assert f"-bucket={buckets}" in SERVICES["seaweedfs"]["command"]


# The modules of `python -m worker dev`, whose dependencies are not in the image.
DEVELOPMENT = {ROOT / "worker" / "dev"}

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
STEPS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]", line)]
LAST_STAGE = STEPS[max(index for index, step in enumerate(STEPS) if step[0] == "FROM") :]


def last_arguments(instruction: str) -> str:
    return next(words for name, words in LAST_STAGE if name == instruction)


def copied_paths(steps: list[list[str]]) -> set[str]:
    copies = [words.split() for name, words in steps if name == "COPY" and "--from" not in words]
    return {source.rstrip("/") for words in copies for source in words[:-1]}


def imports() -> Iterator[tuple[Path, str]]:
    for package in ("valetkey", "models", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if not DEVELOPMENT & {path, *path.parents}:
                yield from ((path, name) for name in imported_packages(ast.parse(path.read_text())))


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_both_stages_of_the_image_have_the_same_base_pinned_by_digest() -> None:
    first, last = (words.split()[0] for name, words in STEPS if name == "FROM")
    assert re.fullmatch(r"python:3\.13\.\d+-slim-\w+@sha256:[0-9a-f]{64}", first)
    assert first == last


def test_dependencies_are_those_of_the_service_and_checked_by_hash() -> None:
    install = next(words for name, words in STEPS if name == "RUN" and "install" in words)
    assert {"--require-hashes", "requirements.lock"} <= set(install.split())


def test_the_image_runs_a_command_that_exists_without_a_shell() -> None:
    assert json.loads(last_arguments("ENTRYPOINT")) == ["python", "-m", "worker"]
    parse_command(main, json.loads(last_arguments("CMD")))


def test_the_build_context_contains_only_the_copied_paths() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied_paths(STEPS)


def test_the_lock_contains_everything_that_the_service_imports() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)(?:\[[^]]+\])?==", lock, re.MULTILINE))
    providers = packages_distributions()
    own = {"valetkey", "models", "worker", *sys.stdlib_module_names}
    own.add("pytest")  # loads the plugin of valetkey, which no other module imports
    own.add("opentelemetry")  # optional: imported only if it is set up
    missing = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imports()
        if module not in own and not {normalize(n) for n in providers.get(module, ())} & locked
    }
    assert not missing


def test_the_lock_pins_every_extra_that_a_package_asks_for() -> None:
    """The pip of Python 3.11 takes `name[extra]` from the index if the lock has only `name`."""
    lock = (ROOT / "requirements-dev.lock").read_text()
    locked = re.findall(r"^([a-z0-9-]+)(\[[^]]+\])?==", lock, re.MULTILINE)
    asked = {
        (canonicalize_name(requirement.name), extra)
        for name, _ in locked
        for requirement in installed_requirements(name)
        for extra in requirement.extras
    }
    pinned = {(name, extra) for name, extras in locked for extra in extras.strip("[]").split(",")}
    assert asked
    assert asked <= pinned


def installed_requirements(name: str) -> list[Requirement]:
    """Return what an installed package requires on this machine, without extras of its own."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # a package of another platform
        return []
    parsed = [Requirement(line) for line in lines]
    return [line for line in parsed if not line.marker or line.marker.evaluate({"extra": ""})]


def test_the_service_imports_all_its_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dependencies = project["project"]["dependencies"] + project["dependency-groups"]["worker"]
    providers = packages_distributions()
    imported = {normalize(name) for _, module in imports() for name in providers.get(module, ())}
    assert {normalize(re.split(r"[\[>=]", line)[0]) for line in dependencies} <= imported
