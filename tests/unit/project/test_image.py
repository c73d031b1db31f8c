import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.support.docs.command_lines import ROOT, parse_command
from worker.__main__ import main

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


def imported_packages(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_both_stages_have_the_same_base_pinned_by_digest() -> None:
    first, last = (words.split()[0] for name, words in STEPS if name == "FROM")
    assert re.fullmatch(r"python:3\.13\.\d+-slim-\w+@sha256:[0-9a-f]{64}", first)
    assert first == last


def test_dependencies_are_those_of_the_service_and_checked_by_hash() -> None:
    install = next(words for name, words in STEPS if name == "RUN" and "install" in words)
    assert {"--require-hashes", "requirements.lock"} <= set(install.split())


def test_it_runs_a_command_that_exists_without_a_shell() -> None:
    assert json.loads(last_arguments("ENTRYPOINT")) == ["python", "-m", "worker"]
    parse_command(main, json.loads(last_arguments("CMD")))


def test_the_build_context_contains_only_the_copied_paths() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied_paths(STEPS)


def test_the_lock_contains_everything_that_the_service_imports() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    providers = packages_distributions()
    own = {"valetkey", "models", "worker", *sys.stdlib_module_names}
    missing = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imports()
        if module not in own and not {normalize(n) for n in providers.get(module, ())} & locked
    }
    assert not missing


def test_the_service_imports_all_its_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dependencies = project["project"]["dependencies"] + project["dependency-groups"]["worker"]
    providers = packages_distributions()
    imported = {normalize(name) for _, module in imports() for name in providers.get(module, ())}
    assert {normalize(re.split(r"[\[>=]", line)[0]) for line in dependencies} <= imported
