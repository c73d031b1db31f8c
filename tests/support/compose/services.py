"""docker-compose.yml and Dockerfile, resolved as Docker Compose does."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.docs.command_lines import ROOT

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_SCRIPT = re.compile(r"^RUN printf '(.*?)' > /venv/bin/valetkey", re.MULTILINE)


class Command(NamedTuple):
    """What a container runs: the words of the command, and its environment."""

    words: Sequence[str]
    environ: Mapping[str, str]


def read_services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml with the variables of a user's shell."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2], text)
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return services


def in_order(services: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of services that `up` starts, each after those that it depends on."""
    started = {
        name: service.get("depends_on", {})
        for name, service in services.items()
        if "profiles" not in service
    }
    return iter(TopologicalSorter(started).static_order())


class Image:
    """The image of the Dockerfile, as a folder: what it copies, its command and its variables."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        self._text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
        self._bin = folder / "bin"
        self._copy_app()
        self._write_script()

    def command(
        self,
        service: Mapping[str, Any],
        variables: Mapping[str, str],
        hosts: Mapping[str, str],
        arguments: Sequence[str] | None = None,
    ) -> Command:
        """Return what a service runs, or with arguments what `compose run` runs.

        variables are those of a user's shell. hosts says where each HOST:PORT of the network is.
        """
        entrypoint = service.get("entrypoint") or json.loads(self._last("ENTRYPOINT"))
        words = [*entrypoint, *(service["command"] if arguments is None else arguments)]
        return self._local(words, self._environ(service, variables), hosts, service)

    def health_command(
        self, service: Mapping[str, Any], variables: Mapping[str, str], hosts: Mapping[str, str]
    ) -> Command:
        """Return the health check of a service."""
        kind, *words = service["healthcheck"]["test"]
        words = [word.replace("$$", "$") for word in words]
        words = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        return self._local(words, self._environ(service, variables), hosts, service)

    def _environ(self, service: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
        image = dict(re.findall(r"(PYTHON\w+)=(\S+)", self._last("ENV")))
        assert image["PYTHONPATH"] == "/app"
        given = {
            name: variables.get(name) if value is None else str(value)
            for name, value in service["environment"].items()
        }
        return {
            **image,
            **{name: value for name, value in given.items() if value is not None},
            "PYTHONPATH": str(self.app),
            "PATH": f"{self._bin}:{Path(sys.executable).parent}:{os.defpath}",
            "HOSTNAME": socket.gethostname(),
            "HOME": "/nonexistent",
        }

    def _local(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        hosts: Mapping[str, str],
        service: Mapping[str, Any],
    ) -> Command:
        places = {mount["target"]: mount["source"] for mount in service.get("volumes", ())}
        words = [str(ROOT / places[word]) if word in places else word for word in words]
        local = {"python": sys.executable, "valetkey": str(self._bin / "valetkey")}
        words = [local.get(words[0], words[0]), *words[1:]]
        return Command(words, {name: _replace(value, hosts) for name, value in environ.items()})

    def _last(self, instruction: str) -> str:
        arguments: list[str] = re.findall(rf"^{instruction} (.+)$", self._text, re.MULTILINE)
        return arguments[-1]

    def _copy_app(self) -> None:
        for sources, target in re.findall(r"^COPY (?!--from)(.+) (\S+)$", self._text, re.MULTILINE):
            for name in sources.split():
                source, folder = ROOT / name, self.app / target
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, folder, ignore=ignored)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, folder)

    def _write_script(self) -> None:
        (text,) = _SCRIPT.findall(self._text)
        script = self._bin / "valetkey"
        self._bin.mkdir()
        script.write_text(text.replace("\\n", "\n").replace("/venv/bin/python", sys.executable))
        script.chmod(0o755)


def _replace(value: str, hosts: Mapping[str, str]) -> str:
    for name, address in hosts.items():
        value = value.replace(name, address)
    return value
