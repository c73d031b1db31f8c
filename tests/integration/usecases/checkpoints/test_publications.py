"""Tests when checkpoints are published, and that a destination that fails gets them later."""

from pathlib import Path

from tests.integration.usecases.checkpoints.conftest import Grow
from tests.support.builders.services import InProcessService
from tests.support.crypto.checkpoints import problems, publish


def notes(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "acme").iterdir())}


def test_each_checkpoint_becomes_a_file_of_its_tenant(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    written = []
    for _ in range(3):
        written.append(grow())
        assert problems(publish(service.context, tmp_path)) == [None]
        assert publish(service.context, tmp_path) == []  # nothing is due
    assert list(notes(tmp_path).values()) == written
    assert list(notes(tmp_path)) == [f"00000000000{size}.checkpoint" for size in (1, 2, 3)]


def test_a_folder_that_fails_gets_all_checkpoints_later(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    grow()
    assert problems(publish(service.context, folder)) == [None]
    folder.rename(tmp_path / "away")
    folder.write_text("a file where the folder was")
    written = [grow(), grow()]
    failed = publish(service.context, folder)
    assert [(row.size, row.label) for row in failed] == [(1, str(folder))]
    assert problems(failed) == ["File exists"] or problems(failed) == ["Not a directory"]
    folder.unlink()
    assert problems(publish(service.context, folder)) == [None]
    assert list(notes(folder).values()) == written


def test_a_new_destination_gets_the_newest_checkpoint_only(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    newest = grow()
    publish(service.context, tmp_path / "a")
    assert list(notes(tmp_path / "a").values()) == [newest]


def test_a_destination_that_fails_keeps_no_other_from_its_checkpoints(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    note = grow()
    rows = publish(service.context, tmp_path / "file", "s3://nosuch/x", tmp_path / "folder")
    assert [row.problem is None for row in rows] == [False, False, True]
    assert rows[1].problem == "there is no bucket profile nosuch"
    assert list(notes(tmp_path / "folder").values()) == [note]


def test_another_checkpoint_of_the_same_size_is_not_replaced(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    path = tmp_path / "acme" / "000000000001.checkpoint"
    path.parent.mkdir()
    path.write_text("of a rewritten log")
    (problem,) = problems(publish(service.context, tmp_path))
    assert problem == f"another checkpoint is in {path}"
    assert path.read_text() == "of a rewritten log"
    assert list(notes(tmp_path)) == [path.name]
