"""What must not change without a new version, because others rely on it."""

import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from valetkey.wire import messages
from valetkey.wire.refusals import Code
from worker.app import app

ROOT = Path(__file__).parents[3]


def test_the_task_names_are_pinned() -> None:
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if name.startswith("valetkey.")}
    assert ours == {f"valetkey.{name}" for name in ("issue", "deliver", "manifests", "upkeep")}
    assert messages.ISSUE_TASK in ours


def test_the_queues_of_requests_are_pinned() -> None:
    assert app.conf.task_routes["valetkey.issue"] == {"queue": messages.INTERACTIVE_QUEUE}
    assert (messages.INTERACTIVE_QUEUE, messages.BULK_QUEUE) == ("valetkey", "valetkey.bulk")


def test_every_refusal_code_reads_as_its_name() -> None:
    assert [code.value for code in Code] == [code.name.lower() for code in Code]


def test_the_messages_need_no_queue_database_or_storage() -> None:
    heavy = "{'celery', 'kombu', 'redis', 'sqlalchemy', 'boto3', 'httpx'}"
    program = f"import sys, valetkey.reading; sys.exit(str({heavy} & set(sys.modules) or '') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_holds_the_producers_package_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"valetkey"}


def test_no_installed_distribution_provides_the_services_names() -> None:
    tops = {
        file.parts[0]
        for distribution in distributions()
        for file in distribution.files or ()
        if file.suffix == ".py"
    }
    assert not {"worker", "models", "tests", "celeryconfig.py"} & tops
