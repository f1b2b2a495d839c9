"""The command `maquette`."""

import sys

import typer

from maquette.cli import admin, demo, generate, tasks, train
from maquette.cli.output import CommandFailed, fail
from maquette.core.errors import MaquetteError

cli = typer.Typer(
    help="Pictures in, a served LoRA out: image fine-tuning in your own house.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

cli.command("serve")(admin.serve)
cli.add_typer(admin.keys, name="keys")
cli.add_typer(admin.bases, name="bases")
cli.command("train")(train.train)
cli.command("list")(tasks.list_tasks)
cli.command("show")(tasks.show)
cli.command("events")(tasks.events)
cli.command("metrics")(tasks.metrics)
cli.command("checkpoints")(tasks.checkpoints)
cli.command("watch")(tasks.watch)
cli.command("download")(tasks.download)
cli.command("cancel")(tasks.cancel)
cli.command("generate")(generate.generate)
cli.command("demo")(demo.demo)


def app() -> None:
    """Run the command line. What its user can mend is printed as words, and the exit code is 1."""
    try:
        cli()  # ends the process, unless an error leaves it
    except MaquetteError as error:
        fail(error.reason, error.message)
    except CommandFailed as error:
        fail("error", str(error))
    except OSError as error:
        fail("error", f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(1)
