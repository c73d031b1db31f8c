import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import celeryconfig
from tests.support.docs.command_lines import ROOT, parse_command
from worker.__main__ import main
from worker.commands.run import QUEUES, run
from worker.core.tenants.config import TenantConfig
from worker.settings import Settings
from worker.usecases.tenants_file import read_tenants_file

# The part of the Compose Specification that is used here: a misspelt key would be ignored.
TOP = {"name", "services", "volumes"}
SERVICE = {
    *("build", "command", "depends_on", "environment", "healthcheck", "image", "init", "ports"),
    *("restart", "stop_grace_period", "volumes"),
}
HEALTHCHECK = {"interval", "start_period", "test", "timeout"}
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(VARIABLE.sub(r"\2", TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
RUNNING = {name: service for name, service in OURS.items() if service["command"][0] == "run"}


def test_only_keys_of_the_specification_are_used() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} <= TOP
    assert {key for service in SERVICES.values() for key in service} <= SERVICE
    checks = [service["healthcheck"] for service in SERVICES.values() if "healthcheck" in service]
    assert {key for check in checks for key in check} <= HEALTHCHECK


def test_every_variable_has_a_default() -> None:
    assert "${" not in VARIABLE.sub("", TEXT)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned_by_a_tag(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:(?!latest)[\w.-]+", SERVICES[name]["image"])


def test_nothing_is_reachable_from_another_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_runs_a_command_that_exists(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parse_command(main, OURS[name]["command"])


def test_the_workers_take_every_queue_between_them() -> None:
    roles = next(option.type for option in run.params if option.name == "only")
    assert isinstance(roles, click.Choice)
    served = {service["command"][-1] for service in RUNNING.values()}
    assert served <= set(roles.choices)
    assert {queue for role in served for queue in QUEUES[role]} == set(QUEUES["all"])


@pytest.mark.parametrize("name", RUNNING)
def test_the_ping_goes_to_the_container_s_own_node(name: str) -> None:
    role = RUNNING[name]["command"][-1]
    assert f'--destination "{role}@$$HOSTNAME"' in RUNNING[name]["healthcheck"]["test"][1]


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_is_told_settings_that_exist(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        variable.removeprefix("VALETKEY_").lower(): value
        for variable, value in OURS[name]["environment"].items()
        if variable.startswith("VALETKEY_")
    }
    assert told.keys() <= Settings.model_fields.keys()
    for variable, value in told.items():
        monkeypatch.setenv(f"VALETKEY_{variable.upper()}", value)
    assert Settings().model_fields_set >= told.keys()


def test_hosts_that_are_named_are_services() -> None:
    urls = " ".join(OURS["worker"]["environment"].values())
    assert set(re.findall(r"://(?:\w+@)?([a-z]+):", urls)) <= SERVICES.keys()


def test_secrets_are_the_same_on_both_sides() -> None:
    ours, theirs = OURS["worker"]["environment"], SERVICES["seaweedfs"]["environment"]
    assert theirs.items() <= ours.items()
    assert ours["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]


def test_defaults_say_that_they_are_for_development() -> None:
    told = OURS["worker"]["environment"]
    secrets = {told[name] for name in ("PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    assert secrets == {"development-only"}


def waits() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            yield name, other, how["condition"]


def test_what_is_waited_for_can_happen() -> None:
    for _, other, condition in waits():
        service = SERVICES[other]
        if condition == "service_healthy":
            assert "healthcheck" in service
        else:
            assert (condition, service["restart"]) == ("service_completed_successfully", "no")


def test_the_order_is_migrate_apply_run() -> None:
    after = {(name, other) for name, other, _ in waits()}
    assert after >= {("migrate", "postgres"), ("apply", "migrate")}
    assert after >= {(name, other) for name in RUNNING for other in ("apply", "redis")}


@pytest.mark.parametrize("name", SERVICES)
def test_what_ends_by_itself_is_not_restarted_and_what_runs_is(name: str) -> None:
    once = name in OURS and name not in RUNNING
    assert SERVICES[name]["restart"] == ("no" if once else "unless-stopped")


@pytest.mark.parametrize("name", RUNNING)
def test_a_worker_has_more_time_to_stop_than_it_takes(name: str) -> None:
    seconds = int(RUNNING[name]["stop_grace_period"].removesuffix("s"))
    assert seconds >= max(20, 2 * celeryconfig.worker_soft_shutdown_timeout)


def test_redis_forgets_nothing_that_waits() -> None:
    words = SERVICES["redis"]["command"]
    assert words[words.index("--appendonly") + 1] == "yes"
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"


def test_every_path_exists_and_every_volume_is_declared() -> None:
    assert {service["build"] for service in OURS.values()} == {"."}
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    assert {mount.partition(":")[0] for mount in mounts} == COMPOSE["volumes"].keys()


def test_storage_has_the_bucket_that_the_example_declares() -> None:
    declared = read_tenants_file(ROOT / "examples" / "tenants.toml", development=False)
    assert isinstance(declared, TenantConfig)
    buckets = ",".join(bucket.bucket for bucket in declared.buckets.values())
    assert f"-bucket={buckets}" in SERVICES["seaweedfs"]["command"]


def test_seaweedfs_knows_its_flags() -> None:
    weed = Path(sys.executable).with_name("weed")
    told = subprocess.run([weed, "help", "mini"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^  (-[\w.]+)", told.stdout + told.stderr, re.MULTILINE))
    mode, *flags = SERVICES["seaweedfs"]["command"]
    assert mode == "mini"
    assert {flag.partition("=")[0] for flag in flags} <= known
