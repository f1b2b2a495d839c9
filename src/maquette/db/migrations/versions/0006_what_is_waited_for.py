"""What an image task waits for, how many workers a model has cost, and who has rejected it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add `image_tasks.waits_for`, `models.lost_workers` and the table of rejections.

    Verdicts name no folder of the server any more, but the kind of device.
    """
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
    op.create_table(
        "model_rejections",
        sa.Column("model_id", sa.String(32), nullable=False),
        sa.Column(
            "judged_with",
            sa.Text(),
            nullable=False,
            comment="worker, bounds and base; by these it is not judged again",
        ),
        sa.Column("tenant_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name="fk_model_rejections_model_id_models", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_model_rejections_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("model_id", "judged_with", name="pk_model_rejections"),
    )
    # Rejected models are judged again: nothing in the new table speaks against it.
    op.execute(sa.table("models", sa.column("judged_with")).update().values(judged_with=None))
