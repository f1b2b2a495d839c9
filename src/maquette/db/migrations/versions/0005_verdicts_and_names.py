"""What the parity gate measured of models, and the names and numbers by which bases are known."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

PUBLISHED_FILES = {
    "stable-diffusion-xl-base-1.0": "sd_xl_base_1.0.safetensors",
    "WFChild_v1.0": "WFChild_v1.0.ckpt",
    "majichenmixrealistic_v10": "majichenmixrealistic_v10_85701.safetensors",
}
"""Of bases whose published file is not called as they are."""


def upgrade() -> None:
    """Add the verdict's columns to `models`, number, file name and widths to `bases`, and `base_aliases`."""
    _extend_models()
    _extend_bases()
    op.create_table(
        "base_aliases",
        sa.Column("alias", sa.String(255), nullable=False),
        sa.Column("base_name", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("alias", name="pk_base_aliases"),
        sa.ForeignKeyConstraint(
            ["base_name"], ["bases.name"], name="fk_base_aliases_base_name_bases", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_base_aliases_base_name", "base_aliases", ["base_name"])


def _extend_models() -> None:
    for column in (
        sa.Column("verdict_message", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "from_sample_mean",
            sa.Double(),
            nullable=True,
            comment="how far what it draws is from the trainer's sample, 0..255",
        ),
        sa.Column("from_sample_largest", sa.Integer(), nullable=True),
        sa.Column(
            "from_base_mean",
            sa.Double(),
            nullable=True,
            comment="how far what it draws is from what its base draws without it, 0..255",
        ),
        sa.Column("from_base_largest", sa.Integer(), nullable=True),
        sa.Column("judged_at", sa.Double(), nullable=True),
        sa.Column(
            "judged_with",
            sa.Text(),
            nullable=True,
            comment="base and worker; a rejected model is judged again by others",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="judgements in a row that came to none",
        ),
        sa.Column(
            "not_before", sa.Double(), server_default="0", nullable=False, comment="back-off: not judged earlier"
        ),
    ):
        op.add_column("models", column)
    op.create_index("ix_models_verdict_not_before", "models", ["verdict", "not_before"])


def _extend_bases() -> None:
    """Those that are there already are numbered by name; the counter goes on behind them."""
    number = sa.Column(
        "number",
        sa.BigInteger(),
        nullable=True,
        comment="runs over all bases; the integer id on the wire counts from it",
    )
    file_name = sa.Column("file_name", sa.String(275), nullable=True, comment="sd_name on the wire")
    op.add_column("bases", number)
    op.add_column("bases", file_name)
    op.add_column(
        "bases",
        sa.Column(
            "text_width",
            sa.Integer(),
            nullable=True,
            comment="numbers in a vector of the text encoder; None where that is not known",
        ),
    )
    op.add_column(
        "bases",
        sa.Column(
            "latent_channels", sa.Integer(), nullable=True, comment="of the autoencoder; None where that is not known"
        ),
    )
    op.execute("UPDATE bases SET number = (SELECT count(*) FROM bases AS other WHERE other.name <= bases.name)")
    op.execute(
        "UPDATE bases SET file_name = CASE WHEN name LIKE '%.safetensors' OR name LIKE '%.ckpt' THEN name"
        " ELSE name || '.safetensors' END"
    )
    bases = sa.table("bases", sa.column("name"), sa.column("file_name"))
    for name, file in PUBLISHED_FILES.items():
        op.execute(bases.update().where(bases.c.name == name).values(file_name=file))
    op.execute("INSERT INTO counters (scope, value) SELECT 'bases', count(*) FROM bases HAVING count(*) > 0")
    with op.batch_alter_table("bases") as batch:
        batch.alter_column("number", existing_type=sa.BigInteger(), existing_comment=number.comment, nullable=False)
        batch.alter_column(
            "file_name", existing_type=sa.String(275), existing_comment=file_name.comment, nullable=False
        )
        batch.alter_column(
            "location",
            existing_type=sa.Text(),
            existing_nullable=False,
            comment="folder in diffusers layout, or file, as every node sees it",
            existing_comment="folder in diffusers layout, as every node sees it",
        )
        batch.alter_column(
            "sha256",
            existing_type=sa.String(64),
            existing_nullable=False,
            comment="over everything that decides what it draws",
            existing_comment="over the folder's weight files",
        )
    op.create_index("uq_bases_number", "bases", ["number"], unique=True)
