import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT, parse_command
from worker.__main__ import main

# What `python -m worker dev` needs is for developers, and is not in the image.
EMBEDDED = {ROOT / "worker" / "embedded", ROOT / "worker" / "commands" / "dev.py"}

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
STEPS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]", line)]
LAST_STAGE = STEPS[max(place for place, step in enumerate(STEPS) if step[0] == "FROM") :]


def argument(instruction: str) -> str:
    return next(words for name, words in LAST_STAGE if name == instruction)


def copied(steps: list[list[str]]) -> set[str]:
    lists = [words.split() for name, words in steps if name == "COPY" and "--from" not in words]
    return {source.rstrip("/") for words in lists for source in words[:-1]}


def imported() -> Iterator[tuple[Path, str]]:
    for package in ("valetkey", "models", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if not EMBEDDED & {path, *path.parents}:
                yield from ((path, name) for name in modules(ast.parse(path.read_text())))


def modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_base_has_a_tag() -> None:
    bases = [words.split()[0] for name, words in STEPS if name == "FROM"]
    assert bases == ["python:3.13-slim"] * 2


def test_dependencies_are_the_service_s_and_checked_by_hash() -> None:
    install = next(words for name, words in STEPS if name == "RUN" and "install" in words)
    assert {"--require-hashes", "requirements.lock"} <= set(install.split())


def test_it_does_not_run_as_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", argument("USER"))


def test_it_runs_a_command_that_exists_with_no_shell_around_it() -> None:
    assert json.loads(argument("ENTRYPOINT")) == ["python", "-m", "worker"]
    parse_command(main, json.loads(argument("CMD")))


@pytest.mark.parametrize("path", sorted(copied(STEPS)))
def test_what_it_copies_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied(STEPS)


def test_the_lock_holds_all_that_the_service_imports() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    providers = packages_distributions()
    ours = {"valetkey", "models", "worker", *sys.stdlib_module_names}
    missing = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imported()
        if module not in ours and not {normal(n) for n in providers.get(module, ())} & locked
    }
    assert not missing


def test_the_service_imports_all_that_it_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]["dependencies"] + project["dependency-groups"]["worker"]
    providers = packages_distributions()
    used = {normal(name) for _, module in imported() for name in providers.get(module, ())}
    assert {normal(re.split(r"[\[>=]", line)[0]) for line in declared} <= used
