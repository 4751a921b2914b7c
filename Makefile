# `make book` builds the book, `make test` checks library and book. Both create .venv when it is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
# numpy 2.0 has wheels for Python 3.11 and 3.12.
PYTHON_OLDEST ?= python3.11
BIN := .venv/bin
BOOKFLAGS ?=                    # e.g. BOOKFLAGS="-W --keep-going": warnings are errors
PYTESTFLAGS ?=

# What the pages are computed from besides their own text: a change here empties the execution cache, which does not notice it.
SOURCES := $(shell find lmmlite book/_ext -type f -not -name '*.pyc') book/bookkit.py _config.yml

# Two processes at a time are enough; the linear algebra in them shall not fight for the cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help book pdf test test-pages notebooks exercises assign reference coverage campaign bench test-oldest test-spark lint clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lmmlite needs Python 3.11 or newer: make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt -e .
	@touch $@

_build/fresh: $(SOURCES) .venv/installed
	@rm -rf _build
	@mkdir -p _build
	@touch $@

book: .venv/installed _build/fresh  ## execute and build the book
	$(BIN)/jupyter-book build . $(BOOKFLAGS)
	@echo "Open $(CURDIR)/_build/html/index.html"

# otter-grader is heavy and pins what it likes: it has an environment of its own.
.venv-assign/installed: book/exercises/assignment/requirements.txt pyproject.toml
	test -x .venv-assign/bin/python || $(PYTHON) -m venv .venv-assign
	.venv-assign/bin/python -m pip install --quiet --disable-pip-version-check -c book/exercises/assignment/requirements.txt -e '.[assign]'
	@touch $@

assign: .venv-assign/installed  ## build the course assignment into _build/assign and prove its grading
	.venv-assign/bin/python tools/assign.py

.venv-oldest/installed: tests/oldest.txt pyproject.toml
	test -x .venv-oldest/bin/python || $(PYTHON_OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oldest.txt -e '.[parallel,plots]'
	@touch $@

test-oldest: .venv-oldest/installed  ## the library's tests with the oldest versions that pyproject.toml allows
	.venv-oldest/bin/python -m pytest -n 2 --dist loadscope tests --ignore tests/test_book.py --ignore tests/test_exercises.py $(PYTESTFLAGS)

test-spark: .venv/installed  ## fits summed by a local Spark cluster (needs a Java runtime)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pyspark==4.3.0
	$(BIN)/python -m pytest tests/spark $(PYTESTFLAGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lmmlite

test: lint  ## lint, types, unit tests, and every output of every notebook
	$(BIN)/python -m pytest -n 2 --dist loadscope --nbval --nbval-sanitize-with tests/nbval.cfg tests book $(PYTESTFLAGS)

test-pages: .venv/installed  ## the built pages in headless Chromium (after `make book`)
	$(BIN)/python -m pytest tests/pages $(PYTESTFLAGS)

pdf: book  ## the whole book as one PDF, _build/lmm.pdf (needs Chromium)
	$(BIN)/python tools/pdf.py

notebooks: .venv/installed  ## execute book/text/*.md into book/*.ipynb
	$(BIN)/python tools/notebooks.py

exercises: .venv/installed  ## make exercises/*.ipynb from book/exercises/text, and those with solutions in _build/solutions
	$(BIN)/python tools/exercise_notebooks.py
	$(BIN)/python tools/exercise_notebooks.py --solutions _build/solutions

reference: .venv/installed  ## make tests/reference/*.json and book/in_r/*.txt anew (needs R with lme4, lmerTest, pbkrtest, RLRsim)
	for script in tests/reference/*.R; do Rscript "$$script"; done
	$(BIN)/python tools/in_r.py

coverage: .venv/installed  ## simulate the coverage of intervals (half an hour); writes book/data/coverage.csv
	$(BIN)/python tools/coverage_study.py

campaign: .venv/installed  ## fit 7,000 generated models, with ten restarts each, against glmm and lme4; writes benchmarks/campaign.md (needs R)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python tools/campaign.py

bench: .venv/installed  ## time lmmlite against its peers, and fits to rows in Parquet files (more than an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.tables

clean:  ## remove what was built; the notebooks stay
	rm -rf _build .venv .venv-assign .venv-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
