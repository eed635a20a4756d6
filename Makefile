# Every target makes .venv when it is missing and installs the pinned set; tests and checks install their tools beside it. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PEERS := .venv-bench
PEERS_STAMP := $(PEERS)/.installed
BENCH ?=
# A file's tests share what they prepared, so one worker runs them all; the files go out in the order of tests/conftest.py.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
export TOKENIZERS_PARALLELISM = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: demo test test-fast test-all check fix bench help clean

$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PEERS_STAMP): setup.cfg setup.py pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

demo: $(STAMP)  ## train on the bundled records, measure before and after, export, search (under 3 minutes)
	$(BIN)/python examples/demo/demo.py

test: $(DEV_STAMP)  ## all tests but those that only `test-all` runs (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest $(PARALLEL) -m "not full"

test-fast: $(DEV_STAMP)  ## tests that neither start processes nor train (under 2 minutes)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not full"

test-all: $(DEV_STAMP)  ## every test, the wheel, benchmarks and all DeepSpeed stages too: before a release
	$(BIN)/python -m pytest $(PARALLEL)

check: $(DEV_STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(DEV_STAMP)  ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) $(PEERS_STAMP)  ## speed and memory beside FlagEmbedding and sentence-transformers (BENCH="--quick", ...)
	$(BIN)/python -m benchmarks $(BENCH)

clean:  ## remove .venv, .venv-bench and what the demo wrote
	rm -rf $(VENV) $(PEERS) demo-output

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
