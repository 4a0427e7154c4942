# make demo    set up and run the main job offline
# make test    set up and run the tests
# Both use a virtual environment in .venv, made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MINUTES KILLS VIDEOS STEPS OUTPUT THREADS FACES_ROOT FACES_PACK
STUDY ?= random_ref
JOBS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

comma := ,
EXTRAS := faces,sweep,captions,app,dev
# What the CUDA builds of torch bring along.
TORCH_PARTS := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
	cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

TOY_FOLDER ?= data/toy/weights
CORES := $(shell getconf _NPROCESSORS_ONLN)
PLAN ?= cpu
DEVICE ?= cpu

.PHONY: help setup lock s3-server demo study study-name studies results study-data bench bench-check bench-gpu bench-curation bench-scoring bench-generation load-test toy-data toy-weights ship-toy-weights test test-slow notebooks fuzz crash-test lint format types clean

help:
	@echo "make demo [VIDEOS=<folder>]   the main job: curate, train, evaluate"
	@echo "make test                     the tests (CPU, offline)"
	@echo "make lock                     requirements.lock anew: the hashes of what is installed"
	@echo "make s3-server                a local object store for the tests of s3:// URLs, in .venv-s3"
	@echo "make study [STUDY=<name>] [JOBS=<processes>]  one question: variants × seeds, trained and compared"
	@echo "make studies                  all of them; hours, goes on where it stopped. make results: docs/results.md"
	@echo "make bench | bench-gpu        speed against plain ways; bench-check compares with the recorded bars"
	@echo "make bench-curation VIDEOS=<folder>  speed of curation against the plain way"
	@echo "make bench-scoring            how fast videos are scored"
	@echo "make bench-generation         speed of generation against diffusers (benchmarks/generation_gpu.py: full size, GPU)"
	@echo "make load-test [MINUTES=10]   50 users at once on the web page, on the toy world"
	@echo "make toy-data                 film people of the toy world, curate them into data/toy/shards"
	@echo "make toy-weights [PLAN=gpu DEVICE=cuda]  train the models of the toy world from nothing; hours of CPU, goes on where it stopped"
	@echo "make notebooks                execute the notebooks and store their outputs; a minute"
	@echo "make crash-test [KILLS=200] [JOBS=2]  kill the programs at random moments, compare what they leave; by an estimate up to an hour on 2 cores"
	@echo "make fuzz                     thousands of damaged and hostile files of every kind; minutes"
	@echo "make lint | types             ruff | mypy"

setup: $(VENV)/.installed

# Every machine gets the versions that were tested together, and all but torch by the hashes of their files. torch comes
# in several builds of one version; the last line finds nothing left to install, or what another platform needs besides.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up $(VENV): some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# After a change of the constraints or the dependencies: the hashes of all files of each version, on any platform.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv==0.13.9
	.venv-lock/bin/uv pip compile pyproject.toml $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) \
		--constraint constraints.txt --universal --python-version 3.11 --generate-hashes --quiet --no-annotate \
		--custom-compile-command "make lock" $(TORCH_PARTS:%=--no-emit-package %) --output-file requirements.lock
	rm -r .venv-lock

# An object store for the tests, in an environment of its own: what it needs does not fit what the project needs.
s3-server: .venv-s3/.installed

.venv-s3/.installed: tests/s3_server.txt
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/python -m pip install --quiet --requirement tests/s3_server.txt
	@touch $@

demo: setup $(if $(VIDEOS),,toy-data)
	@PYTHON=$(BIN)/python ./demo.sh

toy-data: setup
	@echo "── the toy world: film people, curate the videos"
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.toyworld.make_videos data/toy/videos --people 96 --clips 2 --frames 16 --size 144 --workers $(CORES)
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.curate input=data/toy/videos output=data/toy/shards workers=$(CORES) \
		clip.size=32 shards.val_fraction=0.25 link.warn_similarity=0.95

# More people than for the demo, and ten faces a clip, of which the paper's recipe uses five.
study-data: setup data/toy/study/shards/report.json

data/toy/study/shards/report.json: | setup
	@echo "── the toy world: film 240 people, curate the videos"
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.toyworld.make_videos data/toy/study/videos --people 240 --clips 2 --frames 16 --size 144 --workers $(JOBS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m idanim.curate input=data/toy/study/videos output=data/toy/study/shards workers=$(JOBS) \
		clip.size=32 face_pool.num_faces=10 shards.val_fraction=0.25 link.warn_similarity=0.95

study: study-name study-data
	$(BIN)/python -m idanim.study $(STUDY) jobs=$(JOBS) $(STUDY_ARGS)

# Before hundreds of videos are filmed for it.
study-name:
	@case "$(STUDY)" in all|*[\[,]*) ;; *) test -e "conf/experiment/$(STUDY).yaml" || \
		{ echo "make study STUDY=$(STUDY): there is no such study, but $$(ls conf/experiment | sed 's/\.yaml//' | tr '\n' ' ')"; exit 2; } ;; esac

studies: study-data
	$(BIN)/python -m idanim.study all jobs=$(JOBS) $(STUDY_ARGS)

results: setup
	$(BIN)/python -m idanim.study all only_report=true results=docs/results.md

toy-weights: setup
	OMP_NUM_THREADS=$${THREADS:-2} $(BIN)/python -m idanim.toyworld.make_weights $(TOY_FOLDER) gates write --plan $(PLAN) --device $(DEVICE)
	@echo "to ship them: make ship-toy-weights"

ship-toy-weights:
	@test -d $(TOY_FOLDER)/weights || { echo "$(TOY_FOLDER)/weights is not there: make toy-weights"; exit 1; }
	rm -rf src/idanim/toyworld/weights
	cp -r $(TOY_FOLDER)/weights src/idanim/toyworld/weights

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

notebooks: setup
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py notebooks/*.ipynb

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

bench-generation: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/generation.py

load-test: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/load.py --minutes $${MINUTES:-10}

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/test_fuzz_files.py tests/test_hostile_files.py tests/curation/test_fuzz.py

crash-test: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/crash.py --kills $${KILLS:-200} --jobs $(JOBS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-s3 outputs .pytest_cache .mypy_cache .ruff_cache
