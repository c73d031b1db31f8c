"""`audit verify --export` of a file whose rows `audit prune` removed from the database since."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.audit_log.pruned_log import RunPrune, forget_checkpoints
from tests.support.cli.operator import json_rows, run_audit


@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet", "ocsf"])
def test_rows_that_were_pruned_are_counted_and_not_called_missing(
    run: RunPrune, engine: Engine, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "out"
    forget_checkpoints(engine)  # which are made up
    assert run_audit("export", "--format", name, "--out", str(path)).exit_code == 0
    assert run("--yes", "--without-checkpoint").exit_code == 0
    rows = {
        row["type"]: row for row in json_rows(run_audit("verify", "--export", str(path), "--json"))
    }
    assert (rows["export"]["rows"], rows["export"]["pruned"]) == (1, 3)
    assert "3 rows were not compared" in rows["export"]["text"]


def test_a_row_that_is_not_old_enough_to_be_pruned_is_found(
    run: RunPrune, engine: Engine, tmp_path: Path
) -> None:
    path, manifest = tmp_path / "out", tmp_path / "out.manifest.json"
    forget_checkpoints(engine)
    run_audit("export", "--out", str(path))
    run("--yes", "--without-checkpoint")
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, last.replace(b"acme/kept", b"acme/other")]))
    result = run_audit("verify", "--export", str(path))
    assert (result.exit_code, "instead of row 4" in result.stdout) == (1, True), result.output
    assert json.loads(manifest.read_text())["rows"] == 4
