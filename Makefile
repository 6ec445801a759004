# Needs Python >= 3.11 and make, nothing else. `.venv` is made the first time and reused after.
#
#   make demo ARGS="--infra local"     arguments of the command go into ARGS

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=
# Of `make mlflow`.
PORT ?= 5000
# The first Python that is new enough; `make PYTHON=… install` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# uv from PATH, else one of our own from the package index.
UV := $(shell command -v uv 2>/dev/null || echo .bootstrap/bin/uv)

.PHONY: help install demo test test-fast lint bench docs mlflow infra-up infra-down clean lock

help:
	@echo "make install     make .venv (the other targets do it by themselves)"
	@echo "make demo        start everything, replay MovieLens, watch it decide"
	@echo "make test        the whole test suite; make test-fast leaves out Apache Kafka and slow tests"
	@echo "make lint        ruff, mypy --strict, import contracts"
	@echo "make bench       throughput against named baselines"
	@echo "make docs        the pages of docs/ as a site, in site/index.html"
	@echo "make mlflow      the runs and models of sluice train and register, on port 5000 (PORT=5001: another)"
	@echo "make infra-up    start a broker and a Redis; make infra-down stops them"
	@echo "make lock        resolve requirements.lock anew"
	@echo "make clean       remove .venv and caches"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml | $(filter .bootstrap/%,$(UV))
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make PYTHON=/path/to/python install" >&2; exit 2; }
	@test -x $(BIN)/python || $(UV) venv --quiet --no-project --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@test -e $@ || echo "making .venv: a minute or two the first time"
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.bootstrap/bin/uv:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make PYTHON=/path/to/python install" >&2; exit 2; }
	@$(PYTHON) -m venv .bootstrap || { echo "this Python cannot make environments: install python3-venv, or uv" >&2; exit 2; }
	@.bootstrap/bin/pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

demo: $(STAMP)
	@$(BIN)/sluice demo $(ARGS)

# Two files at a time, each on servers of its own; those that take long come first (tests/conftest.py).
PYTEST = $(BIN)/python -m pytest
SPREAD = -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
ifneq ($(ARGS),)
	$(PYTEST) $(ARGS)
else
	$(PYTEST) $(SPREAD) --durations=20
endif

test-fast: $(STAMP)
	$(PYTEST) $(SPREAD) -m "not kafka and not slow" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@$(BIN)/sluice bench count $(ARGS)

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# The database that `sluice train` writes to, unless SLUICE_MLFLOW names another.
mlflow: $(STAMP)
	@echo "runs and models: http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning"
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server \
	    --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri \
	    "$$($(BIN)/python -c 'from sluice.settings import Settings; print(Settings.load().mlflow_uri)')" $(ARGS)

infra-up: $(STAMP)
	@$(BIN)/sluice infra up $(ARGS)

infra-down: $(STAMP)
	@$(BIN)/sluice infra down

# One resolution for Python 3.11 and later on Linux and macOS. No index address, so that any mirror serves. The image
# gets the same versions without the embedded servers and the tools of development.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-emit-find-links pyproject.toml

lock: | $(filter .bootstrap/%,$(UV))
	$(COMPILE) $(ARGS) --extra embedded --extra training --group dev --output-file requirements.lock
	$(COMPILE) --extra training --group build --constraint requirements.lock --output-file infra/docker/requirements.lock

# Data in data/ and the state folder of running servers are not ours to delete.
clean:
	rm -rf .venv .bootstrap build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
