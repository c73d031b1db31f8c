"""Show that a feature can be deleted: copy the tree without it, and use what is left.

The copy lacks the feature and those that need it, their lines in worker/features.py, their tests
and their pages. There, all modules are imported, types are checked, and `--help` is printed. Then,
unless --quick is given, the contracts of imports are checked, `migrate` runs, grants are issued,
and the tests of the core run.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tools.contracts import all_needs
from worker.features import FEATURES, NAMES

PACKAGES = ("models", "valetkey", "worker")
TESTS = ("rules", "ledger", "broker", "base", "aws", "issue", "worker")
_PAGES = {feature.name: feature.page for feature in FEATURES}
_IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

_LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def main() -> int:
    """Delete the features that the arguments name, one at a time; return the exit code."""
    is_quick = "--quick" in sys.argv
    names = [argument for argument in sys.argv[1:] if argument != "--quick"]
    if names == ["all"]:
        names = list(NAMES)
    elif names == ["today"]:
        names = [NAMES[datetime.now(UTC).toordinal() % len(NAMES)]]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        problem = f"There is no feature {', '.join(unknown)}. " if unknown else ""
        known = f"make without FEATURE=NAME, where NAME is all, today, {', '.join(NAMES)}"
        sys.stderr.write(f"{problem}Name a feature: {known}\n")
        return 2
    failed = [name for name in dict.fromkeys(names) if not check_without(name, is_quick=is_quick)]
    if failed:
        sys.stdout.write(f"cannot be deleted: {', '.join(failed)}\n")
    return 1 if failed else 0


def check_without(name: str, *, is_quick: bool) -> bool:
    """Copy the tree without a feature and its dependents, and return true if the rest works."""
    removed = {name, *(each.name for each in FEATURES if name in all_needs(each))}
    dependents = ", ".join(other for other in NAMES if other in removed - {name})
    say(f"without {name}" + (f", and without {dependents}, which need it" if dependents else ""))
    with tempfile.TemporaryDirectory(prefix="valetkey-without-") as folder:
        root = Path(folder)
        copy_tree(Path.cwd(), root, removed)
        checks = quick_checks(root)
        if not is_quick:
            checks += whole_checks(root)
        # All are run: the first one that fails does not hide the others.
        results = [run(root, check, command) for check, command in checks]
        return all(results)


def copy_tree(source: Path, root: Path, removed: set[str]) -> None:
    """Copy the files that git lists, except those of removed features."""
    listed = subprocess.run(
        [str(shutil.which("git")), "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    pages = {_PAGES[name] for name in removed} - {_PAGES[name] for name in _PAGES.keys() - removed}
    for line in listed.stdout.splitlines():
        path = Path(line)
        is_removed = path.parts[0] in {"worker", "tests"} and removed.intersection(path.parts[:-1])
        if (source / path).is_file() and not is_removed and line not in pages:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, root / path)
    names = root / "worker" / "features.py"
    lines = names.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.strip() not in {f'"{name}",' for name in removed}]
    names.write_text("".join(kept), encoding="utf-8")
    contracts = root / "pyproject.toml"
    pure = re.compile(rf'"worker\.(?:{"|".join(removed)})(?:\.\w+)*",? *')
    contracts.write_text(pure.sub("", contracts.read_text(encoding="utf-8")), encoding="utf-8")
    remove_tests(root, removed)


def remove_tests(root: Path, removed: set[str]) -> None:
    """Delete the modules of tests that import a removed feature, and those that import these."""
    paths = {module_of(root, path): path for path in (root / "tests").rglob("*.py")}
    imports = {module: set(imported_modules(path)) for module, path in paths.items()}
    gone = {f"worker.{name}" for name in removed}
    while found := {
        module
        for module, imported in imports.items()
        if module not in gone and any(starts_in(each, gone) for each in imported)
    }:
        gone |= found
    for module in gone & paths.keys():
        paths[module].unlink()


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the modules and names that a module imports when it is imported itself."""
    # An import inside a function is left alone: such helpers do without the feature.
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts_in(module: str, packages: Iterable[str]) -> bool:
    """Return true if a module lies in one of the packages, or is one."""
    return any(module == each or module.startswith(f"{each}.") for each in packages)


def module_of(root: Path, path: Path) -> str:
    """Return the dotted name of a module below the root."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def quick_checks(root: Path) -> list[tuple[str, list[str]]]:
    """Return the checks of imports, types and help: each its name, and arguments of Python."""
    modules = [
        module_of(root, path)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if not {"migrations", "__main__.py"}.intersection(path.parts)
    ]
    cache = Path(tempfile.gettempdir()) / "valetkey-without-mypy"
    types = ["-m", "mypy", f"--cache-dir={cache}"]
    return [
        ("imports", ["-c", _IMPORT_ALL, *modules]),
        ("types", [*types, *(part for name in PACKAGES for part in ("--package", name))]),
        ("help", ["-m", "worker", "--help"]),
    ]


def whole_checks(root: Path) -> list[tuple[str, list[str]]]:
    """Return the checks that use the service: grants on a new database, and the core's tests."""
    kinds = ("unit", "integration")
    folders = [f"tests/{kind}/{name}" for kind in kinds for name in TESTS]
    tests = [folder for folder in folders if any((root / folder).rglob("test_*.py"))]
    return [
        ("layers", ["-c", _LINT_IMPORTS]),
        ("grants", ["-m", "tools.without_grants"]),
        ("tests", ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "quick", *tests]),
    ]


def run(root: Path, check: str, arguments: list[str]) -> bool:
    """Run Python in the copy; print the check's duration, or the end of its output if it fails."""
    started = time.monotonic()
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("VALETKEY_")
    }
    environ["PYTHONPATH"] = str(root)
    completed = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environ,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    is_good = completed.returncode == 0
    say(f"  {check:<8}{'ok' if is_good else 'FAILED'}, {time.monotonic() - started:.0f} s")
    if not is_good:
        say("\n".join(f"    {line}" for line in completed.stdout.splitlines()[-25:]))
    return is_good


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
