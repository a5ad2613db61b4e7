# Needs Python >= 3.11, make and a package index; everything else is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# What the environment may hold; see the comment in the file for another torch.
CONSTRAINTS ?= constraints.txt
EXTRAS = train,report,ray,torchmetrics,dev
# Test processes, and further arguments to pytest: make test ARGS="-k frames"
WORKERS ?= 2
ARGS ?=

BIN = $(VENV)/bin
READY = $(VENV)/.ready
UNFINISHED = $(VENV)/.unfinished
# torch with one thread a process: two threads beside any busy neighbour are several times slower.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# A finished environment whose interpreter is gone (Python was upgraded) is not finished.
$(shell if [ -e "$(READY)" ] && ! "$(BIN)/python" -c "" 2>/dev/null; then rm -f "$(READY)"; fi)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo install test test-fast test-long doctest check lint format types docs clean clean-all

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' Makefile

demo: $(READY)  ## train on embedded data and print where the report is
	OMP_NUM_THREADS=1 $(BIN)/neuralcollapse train --out runs/demo --overwrite

install: $(READY)  ## make the environment
	@echo "$(VENV) is ready"

test: $(READY)  ## run all tests
	$(PYTEST) -n $(WORKERS) $(ARGS)

test-fast: $(READY)  ## run the tests that are not marked slow
	$(PYTEST) -n $(WORKERS) -m "not slow and not long" $(ARGS)

test-long: $(READY)  ## run the tests that take many minutes and are left out by default
	$(PYTEST) -n $(WORKERS) -m long $(ARGS)

doctest: $(READY)  ## run the examples in the docstrings
	$(PYTEST) --doctest-modules src $(ARGS)

check: lint types docs doctest test  ## all that CI runs

lint: $(READY)  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY)  ## put format and style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY)  ## check the types
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

docs: $(READY)  ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

clean:  ## remove what builds and tests left; runs/ and the environment stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean  ## also remove the environment
	rm -rf $(VENV)

# The environment is ready when the mark of an unfinished one has become the stamp. A mark found at
# the start tells of an interrupted install: pip may take such packages for whole, so all is made
# anew. Where pip itself gives up on an update (no network), the old environment stays in use.
$(READY): pyproject.toml $(filter-out /dev/null,$(CONSTRAINTS))
	@if [ -e "$(UNFINISHED)" ] || ! "$(BIN)/python" -c \
	    "import sys, pip; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then \
	  if [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ] && [ ! -e "$(UNFINISHED)" ]; then \
	    echo "$(VENV) exists and is no virtual environment; remove it or name another place:" \
	      "make VENV=.venv-other ..." >&2; exit 1; \
	  fi; \
	  if ! $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then \
	    echo "neuralcollapse needs Python 3.11 or newer; $(PYTHON) is" \
	      "$$($(PYTHON) --version 2>/dev/null || echo not found)." \
	      "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; \
	  fi; \
	  echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  rm -rf "$(VENV)" && mkdir -p "$(VENV)" && touch "$(UNFINISHED)" && \
	  $(PYTHON) -m venv "$(VENV)"; \
	fi
	@touch "$(UNFINISHED)"
	@trap 'exit 130' HUP INT TERM; \
	$(BIN)/python -m pip install --disable-pip-version-check \
	    -c $(CONSTRAINTS) -e ".[$(EXTRAS)]" || { \
	  status=$$?; if [ -e "$(READY)" ]; then rm -f "$(UNFINISHED)"; fi; exit $$status; \
	}
	@mv "$(UNFINISHED)" "$(READY)"
