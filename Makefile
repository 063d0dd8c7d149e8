# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check lint types layers tests test-slow test-gpu bench clean

$(VENV)/.train: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/.peers: $(VENV)/.dev
	$(INSTALL) --editable '.[peers]'
	touch $@

demo: $(VENV)/.train  ## train the two routers of the main job; print their table and the path of the figure
	$(BIN)/python experiments/00_demo/run.py

test: check tests  ## everything that has to pass: lint, types, layers, tests, doctests

check: lint types layers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/test_layers.py

tests: $(VENV)/.dev
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.dev  ## minutes, or another process
	$(BIN)/python -m pytest -q -m slow

test-gpu: $(VENV)/.dev  ## needs a CUDA device
	$(BIN)/python -m pytest -q -m gpu

bench: $(VENV)/.peers  ## the tables of benchmarks/README.md
	$(BIN)/python benchmarks/relaxations.py
	$(BIN)/python benchmarks/samplers.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
