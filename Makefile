# make demo    set everything up and run the main job on the embedded model
# make test    set everything up and run the tests (what .ci/run calls)
# make test-all   the long tests too; make clean   removes the environment
# make bench   measure speed against the machine's floor (25 minutes on 2 quiet cores)

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all bench check clean

demo: $(VENV)/.ready
	$(BIN)/zsrobust demo

test: check
	$(BIN)/python -m pytest -q -m "not slow and not data"

test-all: check
	$(BIN)/python -m pytest -q

bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks.speed --folder runs/bench

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "zsrobust needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing zsrobust and what it needs into $(VENV) (a few minutes, once)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt $(VENV)/.ready
	$(INSTALL) --editable '.[dev]'
	@touch $@
