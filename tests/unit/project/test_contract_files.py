"""docs/contract, which is generated from the messages."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.__main__ import main
from worker.contract.contract_command import FILES

FOLDER = Path(__file__).parents[3] / "docs" / "contract"


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_messages_generate(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == FILES[name](), f"docs/contract/{name} is not up to date: run `make contract`"


def test_the_folder_has_no_other_file() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


def test_the_command_writes_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "contract"
    completed = CliRunner().invoke(main, ["contract", "--out", str(folder)])
    assert completed.exit_code == 0
    assert completed.output.splitlines() == [str(folder / name) for name in FILES]
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert written == {name: generate() for name, generate in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_the_command_prints_each_document(name: str) -> None:
    completed = CliRunner().invoke(main, ["contract", name.partition(".")[0]])
    assert (completed.exit_code, completed.output) == (0, FILES[name]())


@pytest.mark.parametrize("words", [[], ["codes", "--out", "x"]], ids=["nothing", "both"])
def test_the_command_asks_for_a_document_or_a_folder(words: list[str]) -> None:
    completed = CliRunner().invoke(main, ["contract", *words])
    assert completed.exit_code == 2
    assert "name one document, or give --out" in completed.output


@pytest.mark.parametrize(
    ("folder", "problem"),
    [(".", "codes.md cannot be written: Is a directory."), ("file/below", "Not a directory.")],
)
def test_the_file_or_folder_that_cannot_be_written_is_named(
    tmp_path: Path, folder: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "codes.md").mkdir()
    completed = CliRunner().invoke(main, ["contract", "--out", str(tmp_path / folder)])
    assert completed.exit_code == 1
    assert problem in completed.output


def test_an_empty_name_of_a_folder_is_not_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completed = CliRunner().invoke(main, ["contract", "--out", ""])
    assert completed.exit_code == 2
    assert list(tmp_path.iterdir()) == []
