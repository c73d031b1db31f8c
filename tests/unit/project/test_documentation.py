"""Commands, settings, policies and links of the documentation; the lock files name no host."""

import json
import re
from pathlib import Path

import click
import pytest
from pydantic import SecretStr, ValidationError

from tests.support.docs.command_lines import ROOT, CommandLine, documented_commands, parse_command
from tools.reference_pages import PAGES as PAGES_OF_CODE
from valetkey.cli.main import main as valetkey
from worker.__main__ import main as worker
from worker.rules.role_session import session_policy
from worker.settings import Settings


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
OPERATING = read("docs/operating.md")
PROGRAMS: dict[str, click.Command] = {"valetkey": valetkey, "worker": worker}
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line.program} {' '.join(line.words)}")
    for page in PAGES
    for line in documented_commands(page.read_text(encoding="utf-8"))
]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_accepted_by_its_program(
    line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if line.program == "make":
        assert {word for word in line.words if "=" not in word} <= MAKE_TARGETS
        return
    monkeypatch.chdir(tmp_path)
    for word in ("examples/tenants.toml", *line.words):  # the reader has these files
        if re.fullmatch(r"[\w./-]+\.(toml|txt|csv|jsonl|mp4)", word):
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).touch()
    parse_command(PROGRAMS[line.program], line.words)


def test_the_operators_guide_has_commands() -> None:
    assert list(documented_commands(OPERATING))


@pytest.mark.parametrize(
    "words", [["ran"], ["run", "--only", "beat"], ["audit", "lists"], ["apply", "nowhere.toml"]]
)
def test_a_wrong_command_is_detected(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse_command(worker, words)


def test_commands_are_found_after_assignments_prompts_and_pipes() -> None:
    page = (
        "```console\n"
        "$ A=b valetkey download demo \\\n"
        "    acme/1 | sh  # why\n"
        "docker compose exec worker python -m worker migrate && .venv/bin/python -m worker dev\n"
        "make\n"
        "docker compose run --rm -T valetkey usage < a.txt\n"
        "```\n"
        "```python\nmake = valetkey\n```\n"
    )
    assert list(documented_commands(page)) == [
        CommandLine("valetkey", ["download", "demo", "acme/1"]),
        CommandLine("worker", ["migrate"]),
        CommandLine("worker", ["dev"]),
        CommandLine("make", []),
        CommandLine("valetkey", ["usage"]),
    ]


@pytest.mark.parametrize(
    ("broker", "results"),
    [
        ("redis://host:6380/0", "redis://host:6380/1"),
        ("rediss://:s3cret@host", "rediss://:s3cret@host/1?ssl_cert_reqs=required"),
        ("REDIS://host/3", "redis://host/1"),
    ],
)
def test_results_are_stored_beside_the_broker_by_default(broker: str, results: str) -> None:
    assert Settings(broker_url=SecretStr(broker)).result_url.get_secret_value() == results


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "3601"])
def test_an_interval_that_no_sweep_can_have_is_refused(seconds: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"sweep_seconds": seconds})


@pytest.mark.parametrize("name", ["broker_url", "result_url"])
def test_the_server_of_a_rediss_url_is_verified(name: str) -> None:
    settings = Settings.model_validate({name: "rediss://:s3cret@queue.example.com/0"})
    assert getattr(settings, name).get_secret_value().endswith("/0?ssl_cert_reqs=required")


(SESSION,) = map(json.loads, re.findall(r"```json\n(.+?)```", read("docs/security.md"), re.DOTALL))


def test_the_session_policy_is_the_one_of_the_code() -> None:
    role = "arn:aws:iam::111122223333:role/valetkey"
    assert json.loads(session_policy(role, "acme-reports", ("acme/",))) == SESSION


FENCE = r"^```.*?^```$"


def heading_ids(page: Path) -> set[str]:
    """Return the ids that GitHub gives to the headings of a page."""
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    broken = []
    text = re.sub(rf"{FENCE}|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):  # with a colon, it leads to another site
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in heading_ids(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


GENERATED = {"CHANGELOG.md", "docs/contract/codes.md", *PAGES_OF_CODE}
POLICIES = {"SECURITY.md", "CODE_OF_CONDUCT.md"}  # nobody needs them to use the service
MAX_WORDS = 30_000


def prose(page: Path) -> str:
    """Return the text of a page without its programs and tables."""
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ *\|.*$", "", text, flags=re.MULTILINE)


def test_all_pages_together_can_be_read_in_two_hours() -> None:
    names = {str(page.relative_to(ROOT)): page for page in PAGES}
    written = (
        {name for name in names if not name.startswith("docs/appendix/")} - GENERATED - POLICIES
    )
    assert sum(len(prose(names[name]).split()) for name in written) <= MAX_WORDS


def test_the_readme_fits_into_130_lines() -> None:
    assert len(read("README.md").splitlines()) <= 130


def test_a_broken_link_is_detected() -> None:
    text = "[a](nowhere.md) [`b`](#nothing) [c](https://example.com) [d](README.md#compared)"
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md", "#nothing"]


LOCKS = [
    *(path.name for path in ROOT.glob("*.lock")),
    *(f"examples/{name}/package-lock.json" for name in ("producers", "webhooks")),
    "tests/contract/package-lock.json",
    *(f"tests/acceptance/{name}/package-lock.json" for name in ("contract", "report")),
]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_names_hashes_and_no_host(name: str) -> None:
    text = read(name)
    assert "sha256:" in text or '"integrity"' in text
    assert "://" not in text
