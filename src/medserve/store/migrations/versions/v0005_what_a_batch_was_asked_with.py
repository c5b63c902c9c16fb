"""A digest of the request that made a batch, so that another one under its key is told apart."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("batches")}
    if "asked" not in known:
        op.add_column("batches", sa.Column("asked", sa.LargeBinary(), nullable=True))
