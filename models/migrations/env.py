from alembic import context

from models import Base
from models.partitions import is_in_models

# The caller brings the connection: how an engine is set up stands in one place.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    include_name=is_in_models,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
