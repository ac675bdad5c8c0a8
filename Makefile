# The two commands of the README are `make serve` and `make test`; both set up what they need in .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

HOST ?= $(or $(FIP_HOST),127.0.0.1)
PORT ?= $(or $(FIP_PORT),8000)
ARGS ?=
# Where torch comes from when set, e.g. an index of CPU-only builds: make install TORCH_INDEX=https://...
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
# Only what .venv holds: nothing from the caller's PYTHONPATH, PYTHONHOME or user site.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE := 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
BENCHES := io listing first-model engine segment lidar tiling service page
# Those that need a device are no part of `make bench`.
GPU_BENCHES := gpu

.PHONY: help install serve test lint format test-gpu fuzz ui pictures sbom bench $(BENCHES:%=bench-%) $(GPU_BENCHES:%=bench-%) clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F'\t' '{printf "make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed-dev  ## everything: service, training, development tools

serve: $(VENV)/.installed-serve  ## start the service with the bundled model (HOST=127.0.0.1 PORT=8000)
	$(BIN)/fip serve --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/.installed-dev  ## run the tests, one process a core, four at most (ARGS="-k name"); FIP_DATA=folder runs those on real data too
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-gpu: $(VENV)/.installed-dev  ## run the tests that need an NVIDIA GPU; without one it is an error, not a skip
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else f"no CUDA device, or torch {torch.__version__} is not for one")'
	$(BIN)/python -m pytest tests/gpu $(ARGS)

lint: $(VENV)/.installed-dev  ## formatting, ruff, mypy strict, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(VENV)/.installed-dev  ## damaged files of every format, 100,000 each (hours; goes on where it stopped; FIP_DATA: real ones too)
	$(BIN)/python -m tests.fuzz.e57_library
	$(BIN)/python -m tests.fuzz.run all --report $(ARGS)

ui: $(VENV)/.installed-dev  ## build the page anew (needs Node.js 20); what is built is committed, and a test compares
	cd service/ui && npm ci --no-audit --no-fund && npm run check && npm run build
	$(BIN)/python -m tests.page_samples service/ui/built

pictures: $(VENV)/.installed-dev  ## take the pictures of the README anew (needs Chromium)
	FIP_PICTURES=docs/page $(BIN)/python -m pytest -q tests/e2e/test_page_pictures.py

sbom: $(VENV)/.installed-dev  ## what the service is made of (build/sbom.json, CycloneDX), and whether any of it is known to be vulnerable
	@$(BIN)/python -m tests.sbom build

bench: $(BENCHES:%=bench-%)  ## every benchmark; each writes build/bench/NAME.json

bench-io: $(VENV)/.installed-bench  ## reading and voxelizing against plyfile, numpy and spconv
	$(BIN)/python -m tests.bench.bench_io

bench-listing: $(VENV)/.installed-dev  ## a folder of a million files: listed, split, scanned, and memory over an epoch
	$(BIN)/python -m tests.bench.bench_listing

bench-first-model: $(VENV)/.installed-dev  ## from 400 PLY files to a served model (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_first_model

bench-segment: $(VENV)/.installed-dev  ## where the time of a segmented LiDAR scan goes (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_segment

bench-tiling: $(VENV)/.installed-dev  ## a city of 20 million points in tiles: answers and memory (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_tiling

bench-lidar: $(VENV)/.installed-bench  ## the bundled LiDAR model against boosted trees (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_lidar

bench-service: $(VENV)/.installed-bench  ## the service under load and under fire, against plain FastAPI and LitServe (an hour; ARGS="--rows overload,cancel")
	$(BIN)/python -m tests.bench.bench_service $(ARGS)

bench-page: $(VENV)/.installed-dev  ## the page in a browser without a GPU (needs Chromium)
	$(BIN)/python -m tests.bench.bench_page

bench-engine: $(VENV)/.installed-bench  ## sparse convolution against spconv, conv3d and the machine (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_engine $(ARGS)

bench-gpu: $(VENV)/.installed-dev  ## every engine on an NVIDIA GPU against torchsparse, spconv and WarpConvNet where they are installed (needs FIP_DATA)
	$(BIN)/python -m tests.bench.bench_gpu $(ARGS)

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find models training service tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv with Python >= 3.11; python3.11 first, because it is the version that is tested.
$(BIN)/python:
	@for python in python3.11 python3.12 python3.13 python3; do \
	  if $$python -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; \
	    $$python -I -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; exit 0; \
	  fi; \
	done; echo "no Python 3.11 or later on the PATH" >&2; exit 1

$(VENV)/.installed-serve: pyproject.toml | $(BIN)/python
	@echo "installing the service into $(VENV) (once; a CPU build of torch is 200 MB, the default one for Linux several GB)"
	@$(PIP) -e '.[serve]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing service, training and development tools into $(VENV) (once, a few minutes)"
	@$(PIP) -e '.[serve,train,dev]'
	@touch $@ $(VENV)/.installed-serve

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@echo "installing the peers to measure against into $(VENV)"
	@$(PIP) -e '.[bench]'
	@touch $@
