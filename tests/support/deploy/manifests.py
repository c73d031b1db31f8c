"""The files of deploy/kubernetes, as kustomize builds them, and the units of deploy/systemd."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.docs.command_lines import ROOT
from tests.support.servers.debian_programs import find_program

KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"
BUILDS = ("base", "migrate", "example", "example/migrate")


@cache
def build_manifests(folder: str) -> tuple[dict[str, Any], ...]:
    """Return the objects of a folder of deploy/kubernetes, or skip the test without kustomize."""
    command = (find_program("kustomize"), "build", KUBERNETES / folder)
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return tuple(yaml.safe_load_all(built.stdout))


def objects(kind: str, *folders: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind by their names; by default those of the example."""
    return {
        each["metadata"]["name"]: each
        for folder in folders or ("example", "example/migrate")
        for each in build_manifests(folder)
        if each["kind"] == kind
    }


def pods() -> dict[str, dict[str, Any]]:
    """Return the specs of all pods of the example, by the names of what makes them."""
    makers = objects("Deployment") | objects("Job")
    return {name: each["spec"]["template"]["spec"] for name, each in makers.items()}


def containers() -> dict[str, dict[str, Any]]:
    """Return the containers of these pods, by POD/CONTAINER."""
    return {
        f"{pod}/{each['name']}": each
        for pod, spec in pods().items()
        for each in [*spec.get("initContainers", ()), *spec["containers"]]
    }


def install_units(folder: Path) -> None:
    """Install the units as an operator does, below a folder that stands for /."""
    units = folder / "etc" / "systemd" / "system"
    shutil.copytree(SYSTEMD, units)
    drop_in = units / "valetkey-worker@upkeep.service.d"
    drop_in.mkdir()
    (units / "audit-key.conf").rename(drop_in / "audit-key.conf")
    vendor = folder / "usr" / "lib" / "systemd" / "system"
    vendor.mkdir(parents=True)
    for target in ("basic", "multi-user", "network-online", "shutdown", "sysinit"):
        (vendor / f"{target}.target").write_text("[Unit]\nDescription=a target of the system\n")
    program = folder / "opt" / "valetkey" / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
