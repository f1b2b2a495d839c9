"""The server and the commands start without the heavy packages."""

import subprocess
import sys

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
