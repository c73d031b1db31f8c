"""Names that must not change without a new version, because other programs depend on them."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from valetkey import wire
from valetkey.wire import RELEASE
from worker.app import app

ROOT = Path(__file__).parents[3]


def test_the_task_names_are_pinned() -> None:
    app.loader.import_default_modules()
    task_names = {name for name in app.tasks if name.startswith("valetkey.")}
    assert task_names == {
        f"valetkey.{name}" for name in ("issue", "probe", "deliver", "manifests", "upkeep")
    }
    assert wire.ISSUE_TASK in task_names


def test_the_request_queues_are_pinned() -> None:
    assert app.conf.task_routes["valetkey.issue"] == {"queue": wire.INTERACTIVE_QUEUE}
    assert (wire.INTERACTIVE_QUEUE, wire.BULK_QUEUE) == ("valetkey", "valetkey.bulk")


def test_the_release_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == RELEASE


def test_the_wheel_contains_only_the_client_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    top_level_names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in top_level_names if not top.endswith(".dist-info")} == {"valetkey"}


def test_no_installed_distribution_provides_the_names_of_the_service() -> None:
    top_level_names = {
        file.parts[0]
        for distribution in distributions()
        for file in distribution.files or ()
        if file.suffix == ".py"
    }
    assert not {"worker", "models", "tests", "celeryconfig.py"} & top_level_names
