"""Image tasks, and the webhooks that tell of their ends."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add `image_tasks` and `webhook_deliveries`."""
    op.create_table(
        "image_tasks",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant_id", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="runs per tenant"),
        sa.Column("kind", sa.String(16), nullable=False, comment="task_type on the wire"),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False, comment="ImageSpec"),
        sa.Column("original_key", sa.Text(), nullable=True, comment="the picture to start from"),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column(
            "public_url", sa.Text(), nullable=False, comment="what the addresses begin with that its webhook is told"
        ),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.JSON(), nullable=False, comment="attempts that failed, by reason"),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False, comment="no dispatch earlier"),
        sa.Column(
            "supervisor",
            sa.String(64),
            nullable=True,
            comment="server process that holds the lease; only while it is drawn",
        ),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column(
            "step",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="of the denoising steps of all pictures",
        ),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("images", sa.JSON(), nullable=True, comment="list of StoredImage; None until it succeeded"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True, comment="of the latest attempt"),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "status IN ('TASK_STATUS_QUEUED', 'TASK_STATUS_PROCESSING', 'TASK_STATUS_SUCCEED', 'TASK_STATUS_FAILED')",
            name=op.f("ck_image_tasks_status"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_image_tasks"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_image_tasks_tenant_id_tenants"),
    )
    op.create_index("uq_image_tasks_tenant_id_number", "image_tasks", ["tenant_id", "number"], unique=True)
    op.create_index("ix_image_tasks_queue", "image_tasks", ["status", "created_at", "id"])
    op.create_index("ix_image_tasks_leases", "image_tasks", ["status", "lease_until"])
    op.create_index("ix_image_tasks_finished_at", "image_tasks", ["finished_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("image_task_id", sa.String(36), nullable=False),
        sa.Column("tenant_id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="begun so far"),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False, comment="why the latest attempt failed"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("delivered_at", sa.Double(), nullable=True),
        sa.Column("gave_up_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("image_task_id", name="pk_webhook_deliveries"),
        sa.ForeignKeyConstraint(
            ["image_task_id"],
            ["image_tasks.id"],
            name="fk_webhook_deliveries_image_task_id_image_tasks",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_deliveries_tenant_id_tenants"),
    )
    op.create_index("ix_webhook_deliveries_open", "webhook_deliveries", ["delivered_at", "gave_up_at", "not_before"])
