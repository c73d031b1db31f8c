"""Messages that nobody is known to have sent, counted without keeping what they claim."""

from datetime import datetime
from hashlib import sha256

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from models import Rejection
from valetkey.wire.refusals import Code
from worker.core.quotas.cost import window_start
from worker.db.engine import write_transaction


class RejectionCounter:
    """The count of them; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def count(self, code: Code, tenant: str | None, content: str, now: datetime) -> None:
        """Count one more of this hour. tenant is the declared one it named, content what came."""
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        values = {
            "hour": window_start("hour", now),
            "tenant": tenant or "",
            "code": code.value,
            "count": 1,
            "last_at": now,
            "last_digest": sha256(content.encode(errors="surrogatepass")).digest(),
        }
        again = {"count": Rejection.count + 1, "last_at": now, "last_digest": values["last_digest"]}
        one_more = insert(Rejection).on_conflict_do_update(
            index_elements=("hour", "tenant", "code"), set_=again
        )
        with write_transaction(self._engine) as connection:
            connection.execute(one_more.values(values))
