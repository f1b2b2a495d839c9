"""`python -m maquette.inference draw --base DIR REQUESTS.json OUT_DIR`: draw pictures without a server.

`REQUESTS.json` is a JSON list of `DrawRequest`. Exit codes: 0 every picture is drawn; 1 one could not be drawn, and
why is on stderr; 2 called wrongly.
"""

import argparse
import importlib
import sys
from pathlib import Path

import msgspec

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest
from maquette.core.registry import UnknownName
from maquette.core.weights import BrokenWeights
from maquette.families.environment import prepare_environment


def main() -> int:
    """Draw what the command line asks for; answer the exit code."""
    arguments = _parser().parse_args()
    try:
        requests = msgspec.json.decode(arguments.requests.read_bytes(), type=list[DrawRequest])
    except (OSError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{arguments.requests}: {error}\n")
        return 2
    prepare_environment()
    # By name and only now: torch takes seconds to import, and a wrong call should be answered at once.
    drawing = importlib.import_module("maquette.inference.draw")
    try:
        drawing.draw_all(arguments.base, requests, arguments.out, arguments.device)
    except (BrokenBase, UnknownName, BrokenWeights, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m maquette.inference", description="Draw pictures with a base.")
    commands = parser.add_subparsers(required=True)
    draw = commands.add_parser("draw", help="draw a list of pictures to files")
    draw.add_argument("--base", type=Path, required=True, help="the base model's folder, in diffusers layout")
    draw.add_argument("--device", default="cpu", help="torch device string (default: cpu)")
    draw.add_argument("requests", type=Path, metavar="REQUESTS.json", help="a JSON list of draw requests")
    draw.add_argument("out", type=Path, metavar="OUT_DIR", help="where 000.png, 001.png, … are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
