"""The tables, for SQLAlchemy Core. Migrations make them; a test compares the two.

Instants are Unix seconds by the database's clock (`db.now`), as floats, alike on SQLite and PostgreSQL.
Every row that belongs to somebody carries its tenant.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Instant = Double
Number = BigInteger

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("created_at", Instant, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("lookup", String(16), nullable=False, unique=True, comment="the key's public part"),
    Column("secret_hash", String(64), nullable=False, comment="hex SHA-256 of the secret part"),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", ForeignKey("tenants.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False, comment="hex SHA-256 of the call and its body"),
    Column("answer", JSON, nullable=False),
    Column("created_at", Instant, nullable=False, index=True),
)

bases = Table(
    "bases",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("family", String(32), nullable=False),
    Column("location", Text, nullable=False, comment="folder in diffusers layout, or file, as every node sees it"),
    Column("sha256", String(64), nullable=False, comment="over everything that decides what it draws"),
    Column("number", Number, nullable=False, comment="runs over all bases; the integer id on the wire counts from it"),
    Column("file_name", String(275), nullable=False, comment="sd_name on the wire"),
    Column("text_width", Integer, comment="numbers in a vector of the text encoder; None where that is not known"),
    Column("latent_channels", Integer, comment="of the autoencoder; None where that is not known"),
    Column("created_at", Instant, nullable=False),
    Index("uq_bases_number", "number", unique=True),
)

base_aliases = Table(
    "base_aliases",
    metadata,
    Column("alias", String(255), primary_key=True),
    Column("base_name", ForeignKey("bases.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
)

assets = Table(
    "assets",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("extension", String(8), nullable=False, comment="as declared; the bytes are sniffed"),
    Column("created_at", Instant, nullable=False),
    Column("upload_expires_at", Instant, nullable=False),
    Column("uploaded_at", Instant),
    Column("upload_key", Text, comment="object of the latest upload; None before the first"),
    Column("size", BigInteger),
    Column("format", String(8), comment="png, jpeg or webp, sniffed"),
    Column("width", Integer),
    Column("height", Integer),
    Column("sha256", String(64)),
    Column("sealed_key", Text, comment="the copy nobody can write again, made when the first task takes the asset"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
)

dataset_items = Table(
    "dataset_items",
    metadata,
    Column("dataset_id", ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("asset_id", ForeignKey("assets.id"), nullable=False, index=True),
    Column("object_key", Text, nullable=False, comment="the sealed copy this task trains on"),
    Column("caption", Text),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("number", Number, nullable=False, comment="runs per tenant; the lists' order and cursor"),
    Column("name", String(255), nullable=False),
    Column("task_type", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("dataset_id", ForeignKey("datasets.id"), nullable=False),
    Column("spec", JSON, nullable=False, comment="TrainingSpec"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("not_before", Instant, nullable=False, server_default="0", comment="back-off: no dispatch earlier"),
    Column("cancel_requested_at", Instant),
    Column("step", Integer, nullable=False, server_default="0"),
    Column("total_steps", Integer, nullable=False),
    Column("eta_seconds", Integer, nullable=False, server_default="0"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("finished_at", Instant),
    CheckConstraint("status IN ('QUEUING', 'TRAINING', 'SUCCESS', 'FAILED', 'CANCELED')", name="status"),
    Index("uq_tasks_tenant_id_number", "tenant_id", "number", unique=True),
    Index("uq_tasks_tenant_id_task_type_number", "tenant_id", "task_type", "number", unique=True),
    Index("ix_tasks_status_not_before", "status", "not_before"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("node_id", String(64), nullable=False),
    Column("device", String(64), nullable=False),
    Column("handle", Text, nullable=False, comment="the executor's"),
    Column("message_offset", BigInteger, nullable=False, server_default="0", comment="where the next poll reads on"),
    Column("supervisor", String(64), nullable=False, comment="server process that holds the lease"),
    Column("lease_until", Instant, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("launched_at", Instant, comment="None until it returned"),
    Column("ended_at", Instant),
    Column("reason", String(32), comment="why it ends; stored as soon as the trainer says so"),
    Column("message", Text, nullable=False, server_default=""),
    Index("ix_attempts_open", "ended_at", "lease_until"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("prefix", Text, nullable=False, comment="objects of the checkpoint"),
    Column("files", JSON, nullable=False, comment="list of FileRecord"),
    Column("created_at", Instant, nullable=False),
)

device_claims = Table(
    "device_claims",
    metadata,
    Column("node_id", String(64), primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("fence", Integer, nullable=False),
    Column("claimed_at", Instant, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Number, primary_key=True, comment="runs per task"),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("tenant_number", Number, nullable=False, comment="runs per tenant; the outbox position"),
    Column("kind", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("uq_events_tenant_id_tenant_number", "tenant_id", "tenant_number", unique=True),
)

counters = Table(
    "counters",
    metadata,
    Column("scope", String(64), primary_key=True, comment="e.g. task-events:<task id>"),
    Column("value", Number, nullable=False),
)

metrics_blocks = Table(
    "metrics_blocks",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("first_step", Integer, primary_key=True, comment="a block holds steps first_step .. first_step + 255"),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("fence", Integer, nullable=False, comment="attempt that wrote it last"),
    Column("last_step", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False, comment="MetricsBlock as MessagePack"),
)

models = Table(
    "models",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("number", Number, nullable=False, comment="runs per tenant; the integer id on the wire"),
    Column("task_id", ForeignKey("tasks.id"), nullable=False, unique=True),
    Column("name", String(64), nullable=False, comment="model_<unix>_<10 hex>.safetensors"),
    Column("status", String(16), nullable=False),
    Column("verdict", String(16), nullable=False, server_default="pending"),
    Column("verdict_message", Text, nullable=False, server_default=""),
    Column("from_sample_mean", Double, comment="how far what it draws is from the trainer's sample, 0..255"),
    Column("from_sample_largest", Integer),
    Column("from_base_mean", Double, comment="how far what it draws is from what its base draws without it, 0..255"),
    Column("from_base_largest", Integer),
    Column("judged_at", Instant),
    Column("judged_with", Text, comment="base and worker; a rejected model is judged again by others"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="judgements in a row that came to none"),
    Column("not_before", Instant, nullable=False, server_default="0", comment="back-off: not judged earlier"),
    Column(
        "lost_workers",
        Integer,
        nullable=False,
        server_default="0",
        comment="those of `attempts`, the latest in a row, in which the worker was lost",
    ),
    Column("object_key", Text, nullable=False),
    Column("sample_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint("status IN ('DEPLOYING', 'SERVING')", name="status"),
    CheckConstraint("verdict IN ('pending', 'passed', 'rejected')", name="verdict"),
    Index("uq_models_tenant_id_number", "tenant_id", "number", unique=True),
    Index("uq_models_tenant_id_name", "tenant_id", "name", unique=True),
    Index("ix_models_verdict_not_before", "verdict", "not_before"),
)

model_rejections = Table(
    "model_rejections",
    metadata,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("judged_with", Text, primary_key=True, comment="worker, bounds and base; by these it is not judged again"),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("created_at", Instant, nullable=False),
)

image_tasks = Table(
    "image_tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("number", Number, nullable=False, comment="runs per tenant"),
    Column("kind", String(16), nullable=False, comment="task_type on the wire"),
    Column("status", String(32), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("spec", JSON, nullable=False, comment="ImageSpec"),
    Column("original_key", Text, comment="the picture to start from"),
    Column("webhook_url", Text),
    Column("public_url", Text, nullable=False, comment="what the addresses begin with that its webhook is told"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("failures", JSON, nullable=False, comment="attempts that failed, by reason"),
    Column("not_before", Instant, nullable=False, server_default="0", comment="no dispatch earlier"),
    Column("waits_for", String(32), comment="model that was not judged yet when the task was looked at last"),
    Column("supervisor", String(64), comment="server process that holds the lease; only while it is drawn"),
    Column("lease_until", Instant),
    Column("step", Integer, nullable=False, server_default="0", comment="of the denoising steps of all pictures"),
    Column("total_steps", Integer, nullable=False),
    Column("images", JSON, comment="list of StoredImage; None until it succeeded"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("started_at", Instant, comment="of the latest attempt"),
    Column("finished_at", Instant, index=True),
    CheckConstraint(
        "status IN ('TASK_STATUS_QUEUED', 'TASK_STATUS_PROCESSING', 'TASK_STATUS_SUCCEED', 'TASK_STATUS_FAILED')",
        name="status",
    ),
    Index("uq_image_tasks_tenant_id_number", "tenant_id", "number", unique=True),
    Index("ix_image_tasks_queue", "status", "created_at", "id"),
    Index("ix_image_tasks_leases", "status", "lease_until"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("image_task_id", ForeignKey("image_tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0", comment="begun so far"),
    Column("not_before", Instant, nullable=False, server_default="0"),
    Column("message", Text, nullable=False, server_default="", comment="why the latest attempt failed"),
    Column("created_at", Instant, nullable=False),
    Column("delivered_at", Instant),
    Column("gave_up_at", Instant),
    Index("ix_webhook_deliveries_open", "delivered_at", "gave_up_at", "not_before"),
)
