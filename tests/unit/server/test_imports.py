"""The server and the commands start without the heavy packages; the linter's contracts know every slice."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "cv2", "numpy")
REPORT = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


@pytest.mark.parametrize(
    "program",
    [
        "import maquette.server.app",
        "import maquette.server.serve",
        "import contextlib, io\n"
        "from maquette.cli.main import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit): cli(['--help'])\n"
        "assert 'serve' in said.getvalue()",
    ],
)
def test_nothing_heavy_is_imported(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{program}\n{REPORT}"], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_slices_repository_is_protected() -> None:
    """The one contract that can't be a wildcard: each repository has a slice of its own."""
    root = Path(__file__).parents[3]
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    protected = {
        module: contract["allowed_importers"]
        for contract in contracts
        for module in contract.get("protected_modules", ())
        if module.endswith(".repository")
    }
    slices = [f"maquette.server.{path.parent.name}" for path in root.glob("src/maquette/server/*/repository.py")]
    assert protected == {f"{name}.repository": [name, "maquette.testing"] for name in slices}
    assert len(slices) >= 5
