import re
from pathlib import Path

import click
import pytest

from tests.support.docs.command_lines import ROOT, CommandLine, documented_commands, parse_command
from valetkey.cli.main import main as valetkey
from worker.__main__ import main as worker

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
PROGRAMS: dict[str, click.Command] = {"valetkey": valetkey, "worker": worker}
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line.program} {' '.join(line.words)}")
    for page in PAGES
    for line in documented_commands(page.read_text(encoding="utf-8"))
]
MAKE_TARGETS = set(
    re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


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
    assert list(documented_commands((ROOT / "docs" / "operating.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "words",
    [["ran"], ["run", "--only", "beat"], ["audit", "lists"], ["apply", "nowhere.toml"]],
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
