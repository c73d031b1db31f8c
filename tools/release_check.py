"""Checks what a release publishes: `make release-check`. Prints a line per check.

It builds the packages of this checkout, installs the wheel into an empty venv as a producer would,
and runs the README's program there, with the service of this checkout. Exits with 1 if a check
failed. With --between-releases, the commit need not be the release.
"""

import email
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from valetkey.wire import RELEASE
from worker.dev.stack import running_stack

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
ARCHIVED = ("valetkey", "worker", "models", "celeryconfig.py", "docs/contract")
_IMPORT_ALL = """
import importlib, pkgutil, valetkey
for module in pkgutil.walk_packages(valetkey.__path__, "valetkey."):
    if module.name != "valetkey.pytest_plugin":  # pytest loads it
        importlib.import_module(module.name)
for name in valetkey.__all__:
    getattr(valetkey, name)
"""


class CheckFailed(Exception):
    """What a check found."""


def run(*command: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output. Raises CheckFailed with the last lines of a failure."""
    completed = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=900
    )
    if completed.returncode != 0:
        lines = (completed.stdout + completed.stderr).strip().splitlines()
        raise CheckFailed(" | ".join(lines[-4:]) or f"exit code {completed.returncode}")
    return completed.stdout


def run_module(*words: str, cwd: Path = ROOT) -> str:
    """Run a module of the development environment."""
    return run(sys.executable, "-m", *words, cwd=cwd)


def require(expected: object, found: object, what: str) -> None:
    """Raise CheckFailed if two values differ."""
    if expected != found:
        raise CheckFailed(f"{what}: {expected!r} expected, found {found!r}")


@dataclass(frozen=True)
class Checks:
    """The checks of one run, which keep what they build in a folder: later ones use it."""

    folder: Path

    @property
    def wheel(self) -> Path:
        """The wheel, once it is built."""
        return self.folder / "dist" / f"valetkey-{RELEASE}-py3-none-any.whl"

    @property
    def sdist(self) -> Path:
        """The sdist, once it is built."""
        return self.folder / "dist" / f"valetkey-{RELEASE}.tar.gz"

    @property
    def programs(self) -> Path:
        """The programs of the empty venv."""
        return self.folder / "venv" / "bin"

    def versions_agree(self) -> None:
        """pyproject.toml, the package and the newest release in CHANGELOG.md have one version."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        require(RELEASE, project["project"]["version"], "pyproject.toml")
        require(RELEASE, *newest_release(CHANGELOG.read_text(encoding="utf-8")))

    def commit_is_the_release(self) -> None:
        """CHANGELOG.md lists no later change, and tests/compatibility has this commit."""
        chapter = newest_chapter(CHANGELOG.read_text(encoding="utf-8"))
        require(f"[{RELEASE}]", chapter.partition(" ")[0], "the newest chapter of CHANGELOG.md")
        archive = ROOT / "tests" / "compatibility" / f"v{RELEASE}.tar.xz"
        if not archive.exists():
            raise CheckFailed(f"{archive.name} is missing: run `make archive`")
        command = ["git", "archive", "HEAD", *ARCHIVED]
        committed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        differences = files_of(committed).items() ^ files_of(archive.read_bytes()).items()
        for name, _ in sorted(differences):
            raise CheckFailed(f"{name} is not as in {archive.name}: run `make archive`")

    def packages_are_built(self) -> None:
        """The wheel and the sdist can be built."""
        run_module("build", "--no-isolation", "--outdir", str(self.folder / "dist"))

    def sdist_builds_the_same_wheel(self) -> None:
        """The wheel that is built from the sdist has the same files."""
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.folder, filter="data")
        source = self.folder / self.sdist.name.removesuffix(".tar.gz")
        run_module("build", "--wheel", "--no-isolation", cwd=source)
        require(contents(self.wheel), contents(source / "dist" / self.wheel.name), "its files")

    def metadata_is_valid(self) -> None:
        """Twine accepts the metadata, and the wheel has no files that do not belong there."""
        run_module("twine", "check", "--strict", str(self.wheel), str(self.sdist))
        run_module("check_wheel_contents", str(self.wheel))

    def readme_has_absolute_links(self) -> None:
        """The README of the package is rendered, and its links and picture lead to this release."""
        with zipfile.ZipFile(self.wheel) as wheel:
            text = wheel.read(f"valetkey-{RELEASE}.dist-info/METADATA").decode()
        page = self.folder / "README.md"
        page.write_text(str(email.message_from_string(text).get_payload()), encoding="utf-8")
        html = run_module("readme_renderer", str(page))
        problems = list(link_problems(html, ROOT))
        if problems:
            raise CheckFailed(problems[0])

    def wheel_installs_alone(self) -> None:
        """The wheel installs into an empty venv, with the dependencies that it declares."""
        run_module("venv", str(self.programs.parent))
        pip = (str(self.programs / "python"), "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", str(self.wheel))
        run(*pip, "check")

    def modules_import(self) -> None:
        """Every module and public name of the installed package can be imported."""
        run(str(self.programs / "python"), "-I", "-c", _IMPORT_ALL, cwd=self.folder)

    def command_prints_its_version(self) -> None:
        """`valetkey --version` prints the version."""
        output = run(str(self.programs / "valetkey"), "--version", cwd=self.folder)
        require(RELEASE, output.split()[-1], "valetkey --version")

    def readme_program_works(self) -> None:
        """The README's program runs with the installed wheel and the service of this checkout."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        (program,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        with running_stack(self.folder / ".valetkey", None, os.environ):
            command = (str(self.programs / "python"), "-I", "-c", program)
            output = run(*command, cwd=self.folder, environ=environ)
        if not re.fullmatch(r"http://\S+/acme/hello\.txt\?\S+\n", output):
            raise CheckFailed(f"it printed no link: {output[:200]!r}")

    def all(self, *, between_releases: bool) -> list[Callable[[], None]]:
        """Return the checks, in their order."""
        return [
            self.versions_agree,
            *([] if between_releases else [self.commit_is_the_release]),
            self.packages_are_built,
            self.sdist_builds_the_same_wheel,
            self.metadata_is_valid,
            self.readme_has_absolute_links,
            self.wheel_installs_alone,
            self.modules_import,
            self.command_prints_its_version,
            self.readme_program_works,
        ]


def newest_chapter(changelog: str) -> str:
    """Return the title of the first chapter that lists changes."""
    chapters = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    return next(
        text.partition("\n")[0] for text in chapters if re.search("^- ", text, re.MULTILINE)
    )


def newest_release(changelog: str) -> tuple[str | None, str]:
    """Return the version of the first chapter with a date, and a name for it."""
    first = re.search(r"^## \[(\S+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    return first[1] if first else None, "the newest release in CHANGELOG.md"


def files_of(archive: bytes) -> dict[str, bytes]:
    """Return the files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        files = [(member.name, tree.extractfile(member)) for member in tree.getmembers()]
        return {name: file.read() for name, file in files if file is not None}


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class _Links(HTMLParser):
    """Collects where links and pictures lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one."""
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        elif tag == "img":
            self.pictures.append(values.get("src") or "")


def link_problems(html: str, root: Path) -> Iterator[str]:
    """Yield what is wrong with the links of a page, and with its picture."""
    page = _Links()
    page.feed(html)
    if not page.pictures:
        yield "it has no picture"
    own = re.compile(rf"https://[\w./-]+(?:/blob/|@)v{re.escape(RELEASE)}/([^#]+)(?:#.*)?")
    for link in [*page.links, *page.pictures]:
        if link.startswith("#user-content-"):  # of a heading, by the renderer
            continue
        if not link.startswith("https://"):
            yield f"{link} is no absolute link"
        elif (file := own.fullmatch(link)) and not (root / file[1]).exists():
            yield f"{link}: no such file in this checkout"
    yield from (f"{link} is not of this release" for link in page.pictures if not own.match(link))


def main() -> int:
    """Run all checks; return the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="valetkey-release-") as folder:
        between = "--between-releases" in sys.argv[1:]
        for check in Checks(Path(folder)).all(between_releases=between):
            text = (check.__doc__ or "").partition("\n")[0]
            try:
                check()
            except Exception as error:  # noqa: BLE001 - each check gets its line
                failed += 1
                sys.stdout.write(f"FAILED  {text}\n        {error or type(error).__name__}\n")
            else:
                sys.stdout.write(f"OK      {text}\n")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
