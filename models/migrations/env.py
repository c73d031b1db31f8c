from alembic import context

from models import Base
from models.schema import is_in_models

# The caller passes the connection, so that engines are set up in one place.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    include_name=is_in_models,
    render_as_batch=True,
    # One transaction for all would hold the locks of the first migration until the last has ended,
    # and a worker would wait for them, or deadlock.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
