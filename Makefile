# Every check that CI makes is a target here. Needs Python 3.11+, GNU make (3.81 or newer) and git; uses uv when it is there.
#   make install PYTHON=python3.12     another interpreter

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    "$$p" -c '$(RECENT)' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
LOCK_FLAGS ?=

# What an environment is: its interpreter's kind and version, and the folder it was made in. The stamp holds both, so an
# environment that was moved, or whose interpreter was replaced or removed, is not taken for an installed one.
IDENTITY := import sys; print(sys.implementation.cache_tag, sys.prefix)
FOUND := $(shell test -x $(BIN)/python && $(BIN)/python -c '$(IDENTITY)' 2>/dev/null)
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)
ifneq ($(FOUND),$(INSTALLED))
STALE := FORCE
endif
# An interpreter asked for by name replaces an environment of another version; the default one leaves it alone.
ifneq ($(origin PYTHON),file)
ifneq ($(firstword $(FOUND)),$(firstword $(shell "$(PYTHON)" -c '$(IDENTITY)' 2>/dev/null)))
STALE := FORCE
RENEW := yes
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-gpu check lint types lock clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '%-10s %s\n' "$$name" "$$what"; done

install: $(STAMP)  ## make .venv with the locked dependencies and twoviews itself, editable

# Two steps, because pip's hash mode refuses an editable project. The stamp comes last, and a leftover of an interrupted
# installation is thrown away whole: a half-unpacked package can look like an installed one.
$(STAMP): constraints.txt pyproject.toml $(STALE)
	@test -z '$(RENEW)' && test ! -e $(VENV)/.installing && $(BIN)/python -c '$(RECENT)' 2>/dev/null || { \
	    python='$(PYTHON)'; \
	    "$$python" -c '$(RECENT)' || { \
	        echo "twoviews needs Python 3.11 or newer, '$$python' is not: name one, as in make install PYTHON=python3.12" >&2; \
	        exit 1; }; \
	    rm -rf $(VENV) || exit 1; \
	    if command -v uv >/dev/null; then uv venv --quiet --python "$$python" $(VENV); else "$$python" -m venv $(VENV); fi; }
	@touch $(VENV)/.installing && rm -f $(STAMP)
	@set -e; if command -v uv >/dev/null; then \
	    uv pip install --python $(BIN)/python --require-hashes -r constraints.txt; \
	    uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
	    $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; \
	    $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r constraints.txt; \
	    $(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@rm $(VENV)/.installing
	@$(BIN)/python -c '$(IDENTITY)' >$(STAMP).new && mv $(STAMP).new $(STAMP)

demo: $(STAMP)  ## pretrain and compare on the embedded digits, offline; writes runs/demo/report.html
	$(BIN)/twoviews demo --out runs/demo --overwrite

test: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest -m 'not slow and not gpu and not network'

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m 'slow and not gpu and not network'

test-gpu: $(STAMP)  ## the tests that need CUDA
	$(BIN)/python -m pytest -m gpu

check: lint types  ## what CI demands besides the tests: lint, format, types

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/python -m mypy

lock:  ## resolve pyproject.toml into constraints.txt (needs uv); LOCK_FLAGS=--upgrade moves the pins
	uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links $(LOCK_FLAGS) --output-file constraints.txt

clean:  ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:
