# `make demo` and `make test` do all the set-up themselves: nothing else is needed on a fresh machine but
# Python 3.11 or newer and make.

VENV ?= .venv
BIN := $(VENV)/bin

# The first interpreter that is new enough; `make PYTHON=… test` takes another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test fuzz check lint types floors frameworks format bench bench-quick clean

help:
	@echo "make demo    the main job: an agent inside a budget, against a provider on this machine"
	@echo "make test    the tests"
	@echo "make check   lint, types, floors and the tests"
	@echo "make fuzz    the property tests with new cases, until one fails"
	@echo "make bench   the benchmarks (make bench-quick for a short run)"

demo: $(VENV)/.demo
	@$(BIN)/actguard demo

# One hash seed for all workers: the names of some tests are written from sets.
test: $(VENV)/.dev
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n auto --dist loadfile

# The property tests again and again, each time with cases of their own, until one fails: Ctrl-C ends it.
fuzz: $(VENV)/.dev
	@while PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n auto --dist loadfile --hypothesis-profile=fuzz \
		$$(grep -rl "hypothesis" tests --include='test_*.py'); do :; done

check: lint types floors frameworks test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/basedpyright

floors: $(VENV)/.dev
	$(BIN)/lint-imports

# Google ADK needs an older google-genai than the newest, so its tests have an environment of their own.
frameworks: .venv-frameworks/.done
	.venv-frameworks/bin/python -m pytest -q tests/integration/test_tools_frameworks.py

.venv-frameworks/.done: pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -m venv .venv-frameworks
	@echo "Installing the agent frameworks into .venv-frameworks …"
	@.venv-frameworks/bin/python -m pip install --quiet --disable-pip-version-check -e '.[frameworks]'
	@touch $@

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.dev
	@$(BIN)/python -m benchmarks --quick

clean:
	rm -rf .venv .venv-bench .venv-frameworks build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "ActGuard needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "This Python cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing ActGuard and the provider SDKs into $(VENV) …"
	@$(PIP_INSTALL) -e '.[openai,anthropic,google,cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing ActGuard and what its tests need into $(VENV) …"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.demo
