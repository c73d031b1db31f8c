from fnmatch import fnmatchcase

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.support.builders.audit_rows import AuditedBatch
from worker.audit.audit_rows import read_grants
from worker.audit.grant_filters import GrantFilter
from worker.base.database_engine import read_transaction, write_transaction

KEYS = [
    *("acme/a.pdf", "acme/A.pdf", "acme/ab.pdf", "acme/x/a.pdf", "acme/a-pdf", "acme/[a].pdf"),
    *("acme/a*.pdf", "acme/^.pdf", "acme/-.pdf", "acme/].pdf", "acme/!.pdf", "acme/ä.pdf"),
    *("acme/\U0001f4c4.pdf", "acme/a?.pdf", "acme/\\.pdf", "acme/$.pdf", "acme/{1}.pdf", "ACME/a"),
    *("acme/%.pdf", "acme/_.pdf", "acme/a\nb.pdf", "a", "b", "^", "-", "]", "[", "acme\U0010ffff"),
]
PATTERNS = st.text(alphabet="ab^-]![*?/.pdf\\$%_cmeä\U0001f4c4", min_size=1, max_size=12)
TOGETHER = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def log(engine: Engine) -> Engine:
    with write_transaction(engine) as connection:
        AuditedBatch(1, KEYS, chunk_size=len(KEYS)).write(connection)
    return engine


def matches(engine: Engine, grant_filter: GrantFilter) -> set[str]:
    with read_transaction(engine) as connection:
        page = read_grants(connection, grant_filter, 1_000)
    return {record.key for record in page.records}


@TOGETHER
@given(PATTERNS)
@example("acme/*.pdf")
@example("acme/[!a-z].pdf")
@example("acme/[]^-].pdf")
@example("[^-]")
@example("[^]")
@example("[z-a]*")
@example("[!z-a]")
@example("acme/[]-a].pdf")
@example("acme/[a")
@example("acme/[a].pdf")
@example("*[\U0001f4c0-\U0001f4ff]*")
@example("acme\U0010ffff*")
def test_a_pattern_matches_as_fnmatch_does_on_both_databases(log: Engine, pattern: str) -> None:
    expected = {key for key in KEYS if fnmatchcase(key, pattern) or key == pattern}
    assert matches(log, GrantFilter(key_glob=pattern)) == expected


@TOGETHER
@given(st.text(alphabet="acmeA/%_ä\U0001f4c4\U0010ffff", min_size=1, max_size=6))
@example("acme/_")
@example("acme\U0010ffff")
def test_a_prefix_matches_as_startswith_does_on_both_databases(log: Engine, prefix: str) -> None:
    assert matches(log, GrantFilter(prefix=prefix)) == {
        key for key in KEYS if key.startswith(prefix)
    }
