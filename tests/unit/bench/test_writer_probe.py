import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import text

from worker.base.database_engine import create_database_engine, write_transaction


@pytest.mark.parametrize(("writes", "share"), [(True, "1.0"), (False, "0.0")])
def test_the_probe_sees_the_lock_of_another_process_and_takes_none(
    tmp_path: Path, share: str, *, writes: bool
) -> None:
    path = tmp_path / "a.db"
    engine = create_database_engine(f"sqlite:///{path}")
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE t (a)"))
    command = [sys.executable, "-m", "bench.capacity.writer_probe", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as probe:
        assert probe.stdout is not None
        with write_transaction(engine) if writes else nullcontext():
            probe.stdout.readline()
            output, _ = probe.communicate(timeout=30)
    engine.dispose()
    assert output.strip() == share
