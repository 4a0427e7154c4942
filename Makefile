# make demo    set up and run the main job offline
# make test    set up and run the tests
# Both use a virtual environment in .venv, made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export VIDEOS STEPS OUTPUT THREADS FACES_ROOT FACES_PACK
export PIP_DISABLE_PIP_VERSION_CHECK = 1

TOY_FOLDER ?= data/toy/weights

.PHONY: help setup demo bench bench-check bench-gpu bench-curation bench-scoring toy-data toy-weights ship-toy-weights test test-slow fuzz lint format types clean

help:
	@echo "make demo [VIDEOS=<folder>]   the main job: curate, train, evaluate"
	@echo "make test                     the tests (CPU, offline)"
	@echo "make bench | bench-gpu        speed against plain ways; bench-check compares with the recorded bars"
	@echo "make bench-curation VIDEOS=<folder>  speed of curation against the plain way"
	@echo "make bench-scoring            how fast videos are scored"
	@echo "make toy-data                 film people of the toy world, curate them into data/toy/shards"
	@echo "make toy-weights              train the models of the toy world from nothing; hours, goes on where it stopped"
	@echo "make fuzz                     hundreds of damaged videos through curation; minutes"
	@echo "make lint | types             ruff | mypy"

setup: $(VENV)/.installed

# Installed from the constraints, so that every machine gets the versions that were tested together.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up $(VENV): some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[faces,sweep,captions,app,dev]'
	@touch $@

demo: setup $(if $(VIDEOS),,toy-data)
	@PYTHON=$(BIN)/python ./demo.sh

toy-data: setup
	@echo "── the toy world: film people, curate the videos"
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.toyworld.make_videos data/toy/videos --people 96 --clips 2 --frames 16 --size 144
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.curate input=data/toy/videos output=data/toy/shards \
		clip.size=32 shards.val_fraction=0.25 link.warn_similarity=0.95

toy-weights: setup
	OMP_NUM_THREADS=$${THREADS:-2} $(BIN)/python -m idanim.toyworld.make_weights $(TOY_FOLDER) gates write
	@echo "to ship them: make ship-toy-weights"

ship-toy-weights:
	rm -rf src/idanim/toyworld/weights
	cp -r $(TOY_FOLDER)/weights src/idanim/toyworld/weights

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py cpu

bench-gpu: setup
	$(BIN)/python benchmarks/run.py gpu

bench-check: setup
	$(BIN)/python benchmarks/run.py check

bench-curation: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/curation.py $(VIDEOS) --root $${FACES_ROOT:-~/.insightface} --pack $${FACES_PACK:-buffalo_l}

bench-scoring: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scoring.py

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/curation/test_fuzz.py

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
