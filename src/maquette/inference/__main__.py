"""Drawing, in a process of its own: `python -m maquette.inference`, and one of two commands.

`serve --fd N` draws what comes over an inherited socket, as `maquette.core.drawing` puts it. Exit codes: 0 the server
hung up; 1 the worker must be replaced, or was sent what is no request; 2 called wrongly.

`draw --base DIR REQUESTS.json OUT_DIR` draws pictures without a server; `REQUESTS.json` is a JSON list of
`DrawRequest`. Exit codes: 0 every picture is drawn; 1 one could not be drawn, and why is on stderr; 2 called wrongly.
"""

import argparse
import importlib
import socket
import sys
from pathlib import Path

import msgspec

from maquette.core.drawing import BrokenMessage, DrawRequest
from maquette.families.environment import UnknownDevice, prepare_environment

LORA_BYTES = 1 << 30
WORKER = "maquette.inference.worker"


def main(worker: str = WORKER) -> int:
    """Do what the command line asks for; answer the exit code. `worker` is the module whose `serve` serves."""
    arguments = _parser(worker).parse_args()
    return arguments.run(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        connection = socket.socket(fileno=arguments.fd)
    except OSError as error:
        sys.stderr.write(f"--fd {arguments.fd}: {error}\n")
        return 2
    prepare_environment()
    # By name and only now: torch takes seconds to import, and a wrong call should be answered at once.
    worker = importlib.import_module(arguments.worker)
    with connection:
        try:
            return worker.serve(
                connection, device=arguments.device, lora_bytes=arguments.lora_bytes, bases=arguments.bases
            )
        except UnknownDevice as error:
            sys.stderr.write(f"{error}\n")
            return 2
        except BrokenMessage as error:
            sys.stderr.write(f"not a request: {error}\n")
            return 1


def _draw(arguments: argparse.Namespace) -> int:
    try:
        requests = msgspec.json.decode(arguments.requests.read_bytes(), type=list[DrawRequest])
    except (OSError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{arguments.requests}: {error}\n")
        return 2
    if not requests:
        sys.stderr.write(f"{arguments.requests}: an empty list; it must hold one request a picture\n")
        return 2
    prepare_environment()
    drawing = importlib.import_module("maquette.inference.draw")
    try:
        drawing.draw_all(arguments.base, requests, arguments.out, arguments.device)
    except UnknownDevice as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except drawing.FORESEEN as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser(worker: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m maquette.inference", description="Draw pictures with a base.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="draw what a server asks for")
    serve.set_defaults(run=_serve, worker=worker)
    serve.add_argument("--fd", type=int, required=True, metavar="N", help="file descriptor of a connected socket")
    serve.add_argument("--device", default="cpu", help="torch device string (default: cpu)")
    serve.add_argument(
        "--lora-bytes", type=_count, default=LORA_BYTES, help=f"host memory for LoRAs (default: {LORA_BYTES})"
    )
    serve.add_argument("--bases", type=_count, default=1, help="bases that stay loaded at a time (default: 1)")
    draw = commands.add_parser("draw", help="draw a list of pictures to files")
    draw.set_defaults(run=_draw)
    draw.add_argument("--base", type=Path, required=True, help="the base model's folder, in diffusers layout")
    draw.add_argument("--device", default="cpu", help="torch device string (default: cpu)")
    draw.add_argument("requests", type=Path, metavar="REQUESTS.json", help="a JSON list of draw requests")
    draw.add_argument("out", type=Path, metavar="OUT_DIR", help="where 000.png, 001.png, … are written")
    return parser


def _count(text: str) -> int:
    """A number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
