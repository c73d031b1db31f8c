"""Tries changes of audit logs, and counts those that a verification finds."""

import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from tests.support.audit_log.logs import GeneratedLog
from tests.support.audit_log.mutations import MUTATIONS
from tests.support.audit_log.places import Mutation, NotPossible, Place
from tests.support.audit_log.stored_tables import DatabaseRefuses, StoredTables
from tests.support.servers.databases import url_text
from worker.proof.verify.stored_rows import Problem
from worker.proof.verify.tree_check import read_checkpoint_files
from worker.proof.verify.verification import Verification, VerifyOptions, verify_log

_ATTEMPTS = 40


class Trial(NamedTuple):
    """A change that was tried, the problems that were found, and where the first one had to be."""

    kind: str
    found: tuple[Problem, ...]
    place: Place

    @property
    def is_placed(self) -> bool:
        return bool(self.found) and self.place.includes(self.found[0])


def options_of(log: GeneratedLog, folder: Path) -> VerifyOptions:
    """Return the options of an auditor who has the public key, and the last checkpoints."""
    folder.mkdir(exist_ok=True)
    for tenant, note in log.notes.items():
        (folder / tenant).write_text(note)
    keys = (log.signer.verifier,)
    return VerifyOptions(keys=keys, files=tuple(read_checkpoint_files([folder], keys)))


def verified(engine: Engine) -> Verification:
    """Verify the whole log of a database, and find up to nine problems."""
    return verify_log(url_text(engine.url), VerifyOptions(max_problems=9))


@contextmanager
def stored_tables(engine: Engine) -> Iterator[StoredTables]:
    """Open the tables of a database without triggers until the block ends."""
    with closing(StoredTables(url_text(engine.url))) as tables:
        yield tables


def try_mutation(
    kind: str, mutation: Mutation, url: str, options: VerifyOptions, rng: random.Random
) -> Trial:
    """Make a change, and verify the log."""
    place = _mutate(mutation, url, rng)
    return Trial(kind, tuple(verify_log(url, options).problems), place)


def _mutate(mutation: Mutation, url: str, rng: random.Random) -> Place:
    with closing(StoredTables(url)) as db:
        for _ in range(_ATTEMPTS):
            db.execute("BEGIN")
            try:
                place = mutation(db, rng)
            except (NotPossible, *DatabaseRefuses):
                db.execute("ROLLBACK")
            else:
                db.execute("COMMIT")
                return place
    raise AssertionError("no row can be changed like this")


@contextmanager
def copied_file(log: GeneratedLog) -> Iterator[str]:
    """Copy a SQLite database, and remove the copy at the end."""
    source = Path(log.url.removeprefix("sqlite:///"))
    copy = source.with_name("copy.db")
    shutil.copyfile(source, copy)
    try:
        yield f"sqlite:///{copy}"
    finally:
        copy.unlink()


def print_table(trials: list[Trial]) -> None:
    """Print how many changes of each kind were tried, detected, and found at the right place."""
    print(f"\n{'change':52} {'tried':>6} {'detected':>9} {'placed':>7}")  # noqa: T201
    for kind in MUTATIONS:
        of_kind = [trial for trial in trials if trial.kind == kind]
        found = sum(bool(trial.found) for trial in of_kind)
        placed = sum(trial.is_placed for trial in of_kind)
        print(f"{kind:52} {len(of_kind):6} {found:9} {placed:7}")  # noqa: T201
