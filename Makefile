# `make demo` shows what Sightline does; `make test` checks that it does it.
# Both set themselves up and need only Python 3.11 or newer and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check format install install-dev lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train on a made-up catalogue and show the report (3 minutes)"
	@echo "make test     run every test"
	@echo "make check    lint, formatting and types"
	@echo "make format   put the formatting right"
	@echo "make lock     resolve the pinned requirements anew"
	@echo "make clean    remove the environment and the caches"

demo: install
	@$(BIN)/sightline demo

test: install-dev
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.txt pyproject.toml
	@PYTHON="$(PYTHON)" UV="$(UV)" scripts/install $(VENV) requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt pyproject.toml
	@PYTHON="$(PYTHON)" UV="$(UV)" scripts/install $(VENV) requirements-dev.txt
	@touch $@ $(VENV)/.installed

# Versions stay as they are unless pyproject.toml asks for others; delete a file first
# to take the newest of everything.
lock: install-dev
	@UV="$(or $(UV),$(BIN)/uv)" scripts/lock

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
