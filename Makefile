# Everything a newcomer needs; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLIENTS := .venv.clients

# Two cores are shared by server, trainer and tests: idle threads must sleep, not spin.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install clients demo test test-slow test-gpu check fast format bench bench-recovery bench-quality bench-swap bench-parity bench-train bench-kept bench-side-by-side families constraints clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED)  ## make .venv with everything the demo and the tests need

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,postgres,dev]'
	@touch $@

clients: $(CLIENTS)/.installed  ## make .venv.clients with the published client that the tests run unmodified

$(CLIENTS)/.installed: tests/clients/requirements.txt constraints.txt
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement tests/clients/requirements.txt
	@touch $@

demo: install  ## pictures in, a trained LoRA out, before/after pictures in demo/
	$(BIN)/maquette demo --out demo

# On each core one file of tests at a time: its tests share servers and trained runs, which cost most.
test: check  ## linters, types, import arrows, and all tests but the slow ones
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow'

test-slow: install clients  ## the tests that take minutes each: the demo, crashes at every line; CI runs them too
	$(BIN)/pytest -m slow

test-gpu: install  ## what needs a CUDA device: real CUDA graphs, whole runs, memory; no other target runs it
	$(BIN)/pytest tests/gpu tests/unit/trainer/test_graphs.py

check: install  ## linters, types and import arrows only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

fast: install  ## only the tests that need no torch, in a minute or two
	$(BIN)/pytest -m 'not torch and not slow'

format: install  ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## the list at 100,000 tasks, on both databases
	$(BIN)/python benchmarks/list_tasks.py

bench-recovery: install  ## how long a killed trainer goes unnoticed, and until its task trains again
	$(BIN)/python benchmarks/recovery.py

bench-quality: demo  ## does the demo's LoRA draw its character, and better than the base?
	$(BIN)/python benchmarks/demo_quality.py --demo demo --record

bench-swap: install  ## what it costs to draw with another LoRA, beside diffusers' own way
	$(BIN)/python benchmarks/swap.py

bench-parity: install  ## ten models: drawn over the API as their trainers drew, and told from others?
	$(BIN)/python benchmarks/parity.py

bench-train: install  ## how fast the trainer trains, beside the plain loop of diffusers and accelerate
	$(BIN)/python benchmarks/train_loop.py

bench-kept: install  ## how many numbers a step keeps for its backward pass, as the memory models of the families say
	$(BIN)/python benchmarks/kept_numbers.py

bench-side-by-side: install  ## how much longer does a picture take while a training runs?
	$(BIN)/python benchmarks/side_by_side.py

families: install  ## every family against every check that a family must pass
	TRANSFORMERS_VERBOSITY=error $(BIN)/python -m maquette.testing.conformance

constraints:  ## pin anew what everything there is resolves to, in a fresh environment
	$(PYTHON) -m venv --clear $(VENV).pins
	$(VENV).pins/bin/python -m pip install --quiet 'torch==2.13.0' '.[train,postgres,ray,dashboard,dev]'
	$(VENV).pins/bin/python -m pip freeze --exclude maquette | sed -E 's/\+cpu$$//' | grep -v ' @ ' > constraints.txt
	rm -rf $(VENV).pins

clean:  ## remove the environments and the demo's output
	rm -rf $(VENV) $(CLIENTS) demo
