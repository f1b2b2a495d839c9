"""`python -m maquette.rehearsal.worker serve --fd N …`: the worker of a sandbox, which breaks down where asked.

What is asked stands in the prompt (`core.rehearsal`). A picture that asks for nothing is drawn as ever.
"""

import sys

from maquette.inference.__main__ import main

if __name__ == "__main__":
    sys.exit(main("maquette.rehearsal.breakdowns"))
