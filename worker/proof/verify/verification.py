"""Verifies the whole audit log, as one state of the database has it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice

from worker import clock
from worker.proof.checkpoint_format import VerifierKey
from worker.proof.verify.charge_check import Charges, StoredUsage, compare_usage, read_usage
from worker.proof.verify.chunk_check import (
    ChunkCheck,
    check_other_rows,
    check_refused_chunks,
)
from worker.proof.verify.config_check import compare_config, read_config_log
from worker.proof.verify.config_log import ConfigLog
from worker.proof.verify.leaf_check import CHECKS, LogState, check_erased, compare_removals
from worker.proof.verify.log_reader import LogReader, open_reader
from worker.proof.verify.stored_rows import Found, Problem
from worker.proof.verify.tree_check import KnownCheckpoint, TreeCheck, read_heads

OnProgress = Callable[[int, int], None]
"""Called with the number of items that were verified, and with the number of all."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The part of the log to verify, and what to trust.

    tenants are ids, none for all. keys are those whose checkpoints are trusted; without them no
    signature is verified. files are checkpoints from outside of the database. After max_problems
    problems, the verification stops. now decides which usage may have been deleted: it is old.
    """

    tenants: tuple[str, ...] = ()
    keys: tuple[VerifierKey, ...] = ()
    files: tuple[KnownCheckpoint, ...] = ()
    max_problems: int = 1
    now: datetime = field(default_factory=clock.now)


COUNTS = (
    *("items", "chunks", "pruned", "reissues", "cancellations", "revocations", "uses"),
    *("erasures", "settlements", "changes", "leaves", "forks", "trees", "checkpoints", "charges"),
)
"""The names of what is verified, in the order of the output."""


@dataclass(slots=True)
class Verification:
    """The numbers of rows that were verified, by their name, and the problems."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


def verify_log(
    url: str, options: VerifyOptions, on_progress: OnProgress = lambda _done, _total: None
) -> Verification:
    """Verify the audit log in the database at a URL. Writes nothing.

    Raises the driver's errors.
    """
    with closing(open_reader(url, options.tenants)) as reader:
        run = _Run(reader, options, on_progress)
        problems = list(islice(run.problems(), options.max_problems))
        return Verification(run.log.counts, problems)


class _Run:
    """One verification, which puts together what its parts give."""

    def __init__(self, reader: LogReader, options: VerifyOptions, on_progress: OnProgress) -> None:
        self._options = options
        self._on_progress = on_progress
        self.log = LogState(reader)

    def problems(self) -> Iterator[Problem]:
        """Verify, and yield each problem. What only a range of leaves is known of comes last."""
        try:
            broken = list[Problem]()
            yield from self._check_trees(broken)
            try:
                self.log.config = read_config_log(self.log.reader, ConfigLog())
            except Found as found:
                yield found.problem
            usage = read_usage(self.log.reader, self._options.now)
            explained = list[Problem]()
            is_sound = True
            for problem in self._check_rows(usage.charges):
                is_sound = False
                wider = next((each for each in broken if _contains(each, problem)), None)
                if wider is None:
                    yield problem
                    continue
                explained.append(wider)
                yield _wrong_leaf(problem)
            yield from (each for each in broken if each not in explained)
            if self.log.config is not None:
                yield from compare_config(self.log.reader, self.log.config)
            if is_sound and not broken:
                yield from self._check_derived(usage)
        except Found as found:
            yield found.problem

    def _check_trees(self, broken: list[Problem]) -> Iterator[Problem]:
        """Yield the problems of single leaves and checkpoints; add ranges of leaves to broken."""
        options, reader = self._options, self.log.reader
        files = defaultdict[str, list[KnownCheckpoint]](list)
        for file in options.files:
            files[file.tenant].append(file)
        for head in read_heads(reader, options.files):
            check = TreeCheck(reader, head)
            check.run(options.keys, files[head.tenant])
            self.log.counts.update(check.counts)
            broken += check.broken
            yield from check.problems

    def _check_rows(self, charges: Charges) -> Iterator[Problem]:
        log = self.log
        yield from chain.from_iterable(check(log).run() for check in CHECKS)
        yield from self._check_chunks(charges)
        yield from check_other_rows(log.reader)
        yield from _check_identities(log.reader)
        yield from check_erased(log.reader)
        yield from compare_removals(log)

    def _check_chunks(self, charges: Charges) -> Iterator[Problem]:
        statement = "SELECT sum(1.0 * issued + refused) FROM chunks"  # a float cannot overflow
        total = int(self.log.reader.fetch(statement)[0][0] or 0)
        check = ChunkCheck(self.log, charges, lambda done: self._on_progress(done, total))
        yield from check.run()

    def _check_derived(self, usage: StoredUsage) -> Iterator[Problem]:
        """Compare what follows from rows that were verified."""
        yield from compare_usage(usage)
        yield from check_refused_chunks(self.log.reader)
        self.log.counts["charges"] = len(usage.usage)


def _contains(broken: Problem, problem: Problem) -> bool:
    """Return whether a range of leaves contains the leaf from which a row differs."""
    if not isinstance(problem.leaf, int) or problem.tenant != broken.tenant:
        return False
    return (broken.number or 0) <= problem.leaf <= (broken.last_number or 0)


def _wrong_leaf(problem: Problem) -> Problem:
    """Return the problem of the leaf from which a row differs, as its tree shows."""
    text = "its hash is neither that of its rows, nor fits its tree"
    leaf = problem._replace(table="leaves", text=text, number=problem.leaf)
    return leaf._replace(item=None, last_item=None, last_number=None)


def _check_identities(reader: LogReader) -> Iterator[Problem]:
    """Yield the names of tenants that do not follow from their ids, which the leaves cover."""
    for tenant, name in reader.select("id, name", "tenant_identities", "id IN {}", "ORDER BY id"):
        if not isinstance(tenant, str) or name != tenant.partition("~")[0]:
            text = "name is not the name that belongs to the id"
            yield Problem("tenant_identities", text, tenant=tenant)
