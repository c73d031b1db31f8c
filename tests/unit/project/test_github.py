"""The workflow of .github runs all checks on each Python, and may only read the repository."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.support.docs.command_lines import ROOT

FOLDER = ROOT / ".github"
WORKFLOW: dict[str, Any] = yaml.safe_load((FOLDER / "workflows/ci.yml").read_text("utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
FORMS = sorted((FOLDER / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_each_declared_python_runs_all_checks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert JOBS["checks"]["strategy"]["matrix"]["python"] == declared
    assert commands("checks") == [".ci/run"]
    assert commands("release") == ["make release-check"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_and_may_only_read(job: str) -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert JOBS[job]["timeout-minutes"] == 120
    assert "permissions" not in JOBS[job]


def test_only_actions_of_github_are_pinned_by_a_tag() -> None:
    uses = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/\w[\w-]*@v\d+|\S+@[0-9a-f]{40}", each) for each in uses)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_the_fields_of_a_form_have_an_id_and_a_label(path: Any) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["id"] and field["attributes"]["label"] for field in fields)
