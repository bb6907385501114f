# make demo: set up, then train, evaluate and sample on the embedded corpus.
# make test: set up, then lint, types and tests; make test-all: those marked slow, too.
# make parity: compare our recorded numbers of other libraries with what they compute today. Tests
# beside PyTorch are skipped where it is not installed; PARITY_TORCH=1 installs it (a large package).
# make parity-record: write those numbers anew.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all parity parity-record check golden clean

demo: $(VENV)/.installed
	$(BIN)/python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/.installed-test check
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.installed-test check
	$(BIN)/python -m pytest

parity: $(VENV)/.installed-parity
	LM_JAX_PARITY=compare $(BIN)/python -m pytest tests/parity

parity-record: $(VENV)/.installed-parity
	LM_JAX_PARITY=record $(BIN)/python -m pytest --numprocesses=0 tests/parity

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Rewrite the ledger of golden losses after an intended change of the numbers.
golden: $(VENV)/.installed-test
	$(BIN)/python -m tests.golden.regenerate

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-parity: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[parity]'
	test -z "$(PARITY_TORCH)" || $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[torch]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
