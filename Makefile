# make demo    set up and run the main job offline
# make test    set up and run the tests
# Both use a virtual environment in .venv, made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS ?= 1
export OMP_NUM_THREADS ?= $(THREADS)
export VIDEOS STEPS OUTPUT FACES_ROOT FACES_PACK
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo test test-slow lint format types clean

help:
	@echo "make demo [VIDEOS=<folder>]   the main job: curate, train, evaluate"
	@echo "make test                     the tests (CPU, offline)"
	@echo "make lint | types             ruff | mypy"

setup: $(VENV)/.installed

# Installed from the constraints, so that every machine gets the versions that were tested together.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up $(VENV): some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[faces,sweep,dev]'
	@touch $@

demo: setup
	@PYTHON=$(BIN)/python ./demo.sh

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
