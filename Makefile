# Lemur: one recipe in, a served language agent out. `make help` lists the targets.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/quickstart.yaml

# uv does not read pip's setting for local wheels.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
# Wheels are hard-linked from uv's cache where that is another file system, copied without a warning each.
export UV_LINK_MODE ?= $(shell [ "$$(stat -c %d . 2>/dev/null)" = "$$(stat -c %d $${HOME} 2>/dev/null)" ] && echo hardlink || echo copy)

# Every step is a process: without compiled bytecode each would spend seconds compiling its imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help quickstart setup setup-dev test sandbox lint types contracts check compile schema lock clean ci bench-data bench-storage bench-train

##@ Use

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: setup ## Install, then mix, pretrain, tune, evaluate, gate and release a small model on this machine
	@$(BIN)/lemur run $(RECIPE)

setup: $(VENV)/.installed-local ## Make .venv with what runs a recipe here

##@ Develop

setup-dev: $(VENV)/.installed-dev ## Make .venv with what builds and tests Lemur

test: setup-dev sandbox ## Run the tests
	$(BIN)/pytest tests -n 2 --dist loadfile --no-loadscope-reorder

# Tests of the sandbox skip without bubblewrap, so it is installed where that needs no password.
sandbox:
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends bubblewrap; } \
	  || echo "bubblewrap is not installed, so tests that run model-written code skip; install it with your package manager"

lint: setup-dev ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev ## Check types with mypy
	$(BIN)/mypy

contracts: setup-dev ## Check who may import whom
	$(BIN)/lint-imports

check: lint types contracts ## Lint, types and import contracts
	$(BIN)/python -m pipelines.compile --check

ci: check test ## All that continuous integration asks for

##@ Measure

bench-data: setup-dev $(VENV)-peers/.installed-data ## Measure the data engine beside other tools
	$(BIN)/python -m benchmarks.data --peers-python $(VENV)-peers/bin/python

bench-storage: setup-dev $(VENV)-peers/.installed-storage ## Measure storage beside other S3 clients
	$(BIN)/python -m benchmarks.storage --peers-python $(VENV)-peers/bin/python

# Kernels and number formats of a GPU are installed where there is one.
COMMA := ,
bench-train: $(VENV)/.installed-dev$(if $(shell command -v nvidia-smi),$(COMMA)gpu) ## Measure training beside the plain libraries, on a GPU where there is one
	$(BIN)/python -m benchmarks.train

##@ Generate

compile: setup-dev ## Compile the pipelines into pipelines/compiled
	$(BIN)/python -m pipelines.compile

schema: setup-dev ## Write the JSON schema of recipes for editors
	$(BIN)/lemur schema > recipes/recipe.schema.json

lock: $(BIN)/uv ## Resolve every dependency anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --no-annotate --no-header --quiet \
	  | sed 's/+cpu$$//' > requirements.lock

clean: ## Remove .venv and the quickstart's results
	rm -rf $(VENV) artifacts

# A stamp for each set of extras: nothing is installed twice while the lock and the project file stay as they are.
$(VENV)/.installed-%: requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint requirements.lock --editable '.[$*]'
	@touch $@

# Other tools pin other versions, so they live in an environment of their own.
$(VENV)-peers/.installed-%: benchmarks/requirements-%.txt | $(BIN)/uv
	$(BIN)/uv venv --quiet --allow-existing $(VENV)-peers
	$(BIN)/uv pip install --python $(VENV)-peers/bin/python --requirement $<
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lemur needs Python 3.11 or newer; name one with PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$$(sed -n 's/^uv==//p' requirements.lock)"
