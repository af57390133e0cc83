# Every recipe does its own set-up: a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
EXTRAS ?= dev
OUT    ?= runs
BENCHES := bench-harmony bench-train bench-extract bench-store bench-retrieval bench-probe

.PHONY: help install demo test test-all test-lowest lint format types bench $(BENCHES) extract pretrain curriculum eval clean

help:  ## list the recipes
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "harmonize needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

install: $(VENV)/.installed  ## make .venv and install harmonize with its tests' needs

demo: install  ## data to result: make, extract, pretrain twice, score, evaluate (about 6 minutes on 2 cores)
	$(BIN)/harmonize demo run -o $(OUT)/demo --workers $(JOBS)

test: install  ## the tests, with coverage
	$(BIN)/python -m pytest -n $(JOBS) -m 'not long' --cov --cov-report=term

test-all: install  ## the tests and the long ones: full fuzz, kill series, soak
	$(BIN)/python -m pytest -n $(JOBS) --timeout 1800 -m 'long or not long'

test-lowest:  ## the tests against the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n $(JOBS) -m 'not long'

lint: install  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## mypy, strict
	$(BIN)/mypy

bench: $(BENCHES)  ## every benchmark of this machine, as JSON under runs/bench; one: bench-train ARGS='--preset small'
$(BENCHES): bench-%: install
	$(BIN)/python tests/bench/bench_$*.py --json $(OUT)/bench/$*.json $(ARGS)

# One recipe a stage. ARGS passes further options on.
STORE    ?= $(error STORE=... is missing: the feature store)
MANIFEST ?= $(error MANIFEST=... is missing: a CSV, JSONL or Parquet file of clips)
RUN      ?= $(OUT)/$(basename $(notdir $(STORE)))
SCORES   ?= $(RUN)/scores

extract: install  ## STORE=... MANIFEST=...: videos, sound and captions to a feature store
	$(BIN)/harmonize extract $(MANIFEST) -o $(STORE) $(ARGS)

pretrain: install  ## STORE=... [RUN=...] [ARGS='--harmonize both']: train on a store
	$(BIN)/harmonize pretrain $(STORE) -o $(RUN) $(ARGS)

curriculum: install  ## STORE=... RUN=... [SCORES=...]: conflict and noise scores of every sample
	$(BIN)/harmonize curriculum score $(RUN) $(STORE) -o $(SCORES) $(ARGS)

eval: install  ## STORE=... RUN=...: zero-shot retrieval
	$(BIN)/harmonize eval retrieval $(RUN) $(STORE) $(ARGS)

clean:  ## remove the environments and everything the recipes made
	rm -rf $(VENV) .venv-lowest $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
