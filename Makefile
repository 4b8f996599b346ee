# `make demo` and `make test` do everything on a fresh machine. Nothing but Python and a package registry is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint tests bench zoo growth lab wheel clean

demo: $(VENV)/.installed
	$(BIN)/torchgraft demo --output demo-output

test: $(VENV)/.installed lint tests wheel

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

tests: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The wheel, alone in an empty environment with the core dependencies only.
wheel: $(VENV)/.installed
	$(BIN)/python tests/wheel_alone.py

bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --output docs/benchmarks.md

zoo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo --output docs/results/zoo.md

growth: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth --output docs/results/growth.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth.real --output docs/results/real-growth.md

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# One of `torchgraft lab list`; an interrupted one goes on.
EXPERIMENT ?= digits-pairs
lab: $(VENV)/.installed
	$(BIN)/torchgraft lab run $(EXPERIMENT)

clean:
	rm -rf $(VENV) build dist demo-output
