"""What an image task waits for, and how many workers a model has cost."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add `image_tasks.waits_for` and `models.lost_workers`; verdicts name no folder of the server any more."""
    op.add_column(
        "image_tasks",
        sa.Column(
            "waits_for",
            sa.String(32),
            nullable=True,
            comment="model that was not judged yet when the task was looked at last",
        ),
    )
    op.add_column(
        "models",
        sa.Column(
            "lost_workers",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="those of `attempts`, the latest in a row, in which the worker was lost",
        ),
    )
    # Rejected models are judged again by it, with the base's name in the place of its folder.
    op.execute(sa.table("models", sa.column("judged_with")).update().values(judged_with=None))
