"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "bases",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("family", sa.String(length=32), nullable=False),
        sa.Column("location", sa.Text(), nullable=False, comment="folder in diffusers layout, as every node sees it"),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="over the folder's weight files"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_bases")),
    )
    op.create_table(
        "counters",
        sa.Column("scope", sa.String(length=64), nullable=False, comment="e.g. task-events:<task id>"),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_counters")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("lookup", sa.String(length=16), nullable=False, comment="the key's public part"),
        sa.Column("secret_hash", sa.String(length=64), nullable=False, comment="hex SHA-256 of the secret part"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("lookup", name=op.f("uq_api_keys_lookup")),
    )
    op.create_index(op.f("ix_api_keys_tenant_id"), "api_keys", ["tenant_id"], unique=False)
    op.create_table(
        "assets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("extension", sa.String(length=8), nullable=False, comment="as declared; the bytes are sniffed"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("upload_expires_at", sa.Double(), nullable=False),
        sa.Column("uploaded_at", sa.Double(), nullable=True),
        sa.Column("upload_key", sa.Text(), nullable=True, comment="object of the latest upload; None before the first"),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("format", sa.String(length=8), nullable=True, comment="png, jpeg or webp, sniffed"),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column(
            "sealed_key",
            sa.Text(),
            nullable=True,
            comment="the copy nobody can write again, made when the first task takes the asset",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_assets_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assets")),
    )
    op.create_index(op.f("ix_assets_tenant_id"), "assets", ["tenant_id"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_datasets_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_tenant_id"), "datasets", ["tenant_id"], unique=False)
    op.create_table(
        "dataset_items",
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("asset_id", sa.String(length=32), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False, comment="the sealed copy this task trains on"),
        sa.Column("caption", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["asset_id"], ["assets.id"], name=op.f("fk_dataset_items_asset_id_assets")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_items_dataset_id_datasets"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_dataset_items")),
    )
    op.create_index(op.f("ix_dataset_items_asset_id"), "dataset_items", ["asset_id"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="runs per tenant; the lists' order and cursor"),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("task_type", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False, comment="TrainingSpec"),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="attempts that ended in failure"
        ),
        sa.Column(
            "not_before", sa.Double(), server_default="0", nullable=False, comment="back-off: no dispatch earlier"
        ),
        sa.Column("cancel_requested_at", sa.Double(), nullable=True),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("eta_seconds", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "status IN ('QUEUING', 'TRAINING', 'SUCCESS', 'FAILED', 'CANCELED')", name=op.f("ck_tasks_status")
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_tasks_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tasks_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index("ix_tasks_status_not_before", "tasks", ["status", "not_before"], unique=False)
    op.create_index("uq_tasks_tenant_id_number", "tasks", ["tenant_id", "number"], unique=True)
    op.create_index("uq_tasks_tenant_id_task_type_number", "tasks", ["tenant_id", "task_type", "number"], unique=True)
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("handle", sa.Text(), nullable=True, comment="the executor's; None until launched"),
        sa.Column(
            "message_offset",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="where the next poll reads on",
        ),
        sa.Column("supervisor", sa.String(length=64), nullable=False, comment="server process that holds the lease"),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column(
            "reason", sa.String(length=32), nullable=True, comment="why it ends; stored as soon as the trainer says so"
        ),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_attempts_task_id_tasks"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_attempts_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("task_id", "fence", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_open", "attempts", ["ended_at", "lease_until"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="objects of the checkpoint"),
        sa.Column("files", sa.JSON(), nullable=False, comment="list of FileRecord"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_checkpoints_task_id_tasks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_checkpoints_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("task_id", "fence", "step", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "device_claims",
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_device_claims_task_id_tasks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", "device", name=op.f("pk_device_claims")),
        sa.UniqueConstraint("task_id", name=op.f("uq_device_claims_task_id")),
    )
    op.create_table(
        "events",
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="runs per task"),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("tenant_number", sa.BigInteger(), nullable=False, comment="runs per tenant; the outbox position"),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_events_task_id_tasks"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_events_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("task_id", "number", name=op.f("pk_events")),
    )
    op.create_index("uq_events_tenant_id_tenant_number", "events", ["tenant_id", "tenant_number"], unique=True)
    op.create_table(
        "metrics_blocks",
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column(
            "first_step", sa.Integer(), nullable=False, comment="a block holds steps first_step .. first_step + 255"
        ),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False, comment="attempt that wrote it last"),
        sa.Column("last_step", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="MetricsBlock as MessagePack"),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_metrics_blocks_task_id_tasks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_metrics_blocks_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("task_id", "first_step", name=op.f("pk_metrics_blocks")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="runs per tenant; the integer id on the wire"),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False, comment="model_<unix>_<10 hex>.safetensors"),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("sample_key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.CheckConstraint("status IN ('DEPLOYING', 'SERVING')", name=op.f("ck_models_status")),
        sa.CheckConstraint("verdict IN ('pending', 'passed', 'rejected')", name=op.f("ck_models_verdict")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_models_task_id_tasks")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_models_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("task_id", name=op.f("uq_models_task_id")),
    )
    op.create_index("uq_models_tenant_id_name", "models", ["tenant_id", "name"], unique=True)
    op.create_index("uq_models_tenant_id_number", "models", ["tenant_id", "number"], unique=True)
