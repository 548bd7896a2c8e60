# The whole study from the command line. `make` alone lists what there is.
#
# `make reproduce` and `make test` need nothing but Python 3.11: they make .venv, install the exact packages
# of requirements.lock into it, and go. With PY=python (or a path) they use that Python as it is instead.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help reproduce test check notebooks site data weights bench clean environment

PROFILE  ?= default
NOTEBOOK ?=
PARAMS   ?=

ifdef PY
PYTHON := $(PY)
else
PYTHON := .venv/bin/python
# The installed packages follow from the lock, the package's own table and the place of the checkout; the
# mark is made last, so that an interrupted installation is taken up again.
MARK := .venv/installed-$(shell (cat requirements.lock pyproject.toml; pwd) | cksum | cut -d ' ' -f 1)
endif

RUN := $(PYTHON) -m study.reproduce $(if $(NOTEBOOK),--notebook $(NOTEBOOK))
# two at a time with a thread each; what measures time runs afterwards, with the machine to itself. Compiled
# files are kept, whatever the shell says: to compile all of them anew takes 6 s.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -n 2 --dist worksteal

help:
	@echo "make reproduce   run the notebooks that need it, then print the claims (figures/, build/notebooks/)"
	@echo "make test        all tests with their coverage; all notebooks run and compared with the committed ones"
	@echo "make check       the fast loop: ruff, mypy and the unit tests, about a minute"
	@echo "make notebooks   run, then write the executed notebooks, cleaned, back to notebooks/"
	@echo "make site        all notebooks as web pages that open from disk: build/site/index.html"
	@echo "make data        the real data sets: what is there, what can be downloaded, how to place the rest"
	@echo "make weights     train the network that ships with the package again (some ten minutes), with its model card"
	@echo "make bench       what the work costs, fast ways beside plain ones: a table, and build/bench.json (some 3 minutes)"
	@echo "make environment only .venv with the locked packages, for python -m bioface (what the others do first)"
	@echo "make clean       remove build/ and caches; data/, figures/, notebooks/ and .venv stay"
	@echo
	@echo "PROFILE=full              paper width, long (default: minutes on 2 cores)"
	@echo "NOTEBOOK=\"01 A1\"          only these notebooks"
	@echo "PARAMS=\"name=value ...\"   set notebook parameters"
	@echo "PY=python                 use this Python and its packages; no .venv is made"

reproduce: environment
	@$(RUN) --profile $(PROFILE) $(if $(PARAMS),--parameter $(PARAMS))

# Coverage is held to the bar in pyproject.toml; `python -m coverage report -m` lists the lines.
test: environment
	@set -e; start=$$(date +%s); \
	$(PYTEST) -m "not alone" --cov --cov-report=; \
	$(PYTHON) -m pytest -m alone tests || [ $$? -eq 5 ]; tested=$$(date +%s); \
	$(RUN) --compare; compared=$$(date +%s); \
	echo "tests $$((tested - start)) s, notebooks compared $$((compared - tested)) s, all $$((compared - start)) s"

check: environment
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy --no-error-summary
	@$(PYTEST) -m "not slow and not alone"

notebooks: environment
	@$(RUN) --publish
	@$(PYTHON) -m study.readme

site: environment
	@$(PYTHON) -m study.site

data: environment
	@$(PYTHON) -m bioface data

weights: environment
	@$(PYTHON) -m study.generalisation

bench: environment
	@mkdir -p build
	@$(PYTHON) -m pytest tests/benchmarks -o addopts= --benchmark-only --benchmark-json=build/bench.json

clean:
	rm -rf build .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

ifdef PY
environment:
	@$(PY) -c "import os; from bioface import paths; os.path.samefile(paths.root(), '.') or exit(1)" || { \
	  echo "PY=$(PY) does not have this checkout's package; install it there with" >&2; \
	  echo "  $(PY) -m pip install -r requirements.lock" >&2; \
	  echo "  $(PY) -m pip install --no-build-isolation --no-deps -e ." >&2; exit 2; }
else
environment: $(MARK)

$(MARK):
	@python=; for candidate in python3.11 python3 python; do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 is needed and was not found as python3.11, python3 or python." >&2; \
	  echo "Install it, or name an environment of your own: make PY=/path/to/python ..." >&2; exit 2; \
	fi; \
	set -e; rm -f .venv/installed-*; \
	echo "Making .venv (a few minutes, once) ..."; \
	$$python -m venv .venv; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	touch $(MARK)
endif
