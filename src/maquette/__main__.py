"""`python -m maquette` is `maquette`."""

from maquette.cli.main import app

app()
