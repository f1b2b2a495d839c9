"""An attempt's handle is known before its launch, and failures are counted over attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Let `launched_at` say what a missing handle said, and drop `tasks.failures`."""
    op.add_column("attempts", sa.Column("launched_at", sa.Double(), nullable=True, comment="None until it returned"))
    op.execute("UPDATE attempts SET launched_at = started_at WHERE handle IS NOT NULL")
    # As the local executor, the only one there was, calls it.
    op.execute("UPDATE attempts SET handle = task_id || '/' || fence WHERE handle IS NULL")
    with op.batch_alter_table("attempts") as batch:
        batch.alter_column(
            "handle",
            existing_type=sa.Text(),
            nullable=False,
            comment="the executor's",
            existing_comment="the executor's; None until launched",
        )
    op.drop_column("tasks", "failures")
