"""Several processes, with many ranges of batches, find what one process finds."""

from contextlib import closing
from dataclasses import replace

import pytest

from tests.support.audit_log.logs import generate_log
from tests.support.audit_log.stored_tables import StoredTables
from worker.db.tree import row_ranges
from worker.usecases.audit.verification.verify import VerifyOptions, verify_log


@pytest.mark.timeout(120)
def test_several_processes_find_what_one_finds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_ranges, "_ITEMS_PER_RANGE", 3)
    log = generate_log(database_url, seed=1)
    one = VerifyOptions(max_problems=100)
    sound = verify_log(log.url, one)
    progress: list[tuple[int, int]] = []
    three = replace(one, processes=3)
    assert verify_log(log.url, three, lambda *numbers: progress.append(numbers)) == sound
    assert (sound.is_sound, progress[-1]) == (True, (sound.items, sound.items))
    assert len({done for done, _ in progress}) > 5
    with closing(StoredTables(log.url)) as db:
        rows = db.rows("grants")
        for row in (rows[0], rows[len(rows) // 2], rows[-1]):
            db.update("grants", row, object_key="other")
    changed = verify_log(log.url, one)
    assert len(changed.problems) == 3
    assert verify_log(log.url, three) == changed
    assert verify_log(log.url, replace(three, max_problems=1)).problems == changed.problems[:1]
