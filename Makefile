# Needs Python 3.11 or later, pip, make, and a package registry: pip's own configuration says which.
#
#   make demo      install, then the bundled example: 2,000 rows, no key, no network
#   make test      the tests                      make check   lint, format, types, layers
#   make quick     those without whole commands   make docs    write what pages are generated from
#   make commands  the longest tests, every page  make cover   coverage of the quick ones
#   make prove     the full-size tests            make bench   measurements
#   make simulate  SEEDS=2000                     make scale   10,000 partitions run, a million planned
#   make lock      resolve the lock files anew    make clean   remove caches and .venv
#   make help      this

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
SEEDS ?= 500
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
UV := $(BIN)/uv

# What an environment was made from. A stamp is touched last, so an interrupted install is done again.
FIRST_DAY := $(VENV)/.first-day
DEV := $(VENV)/.dev

.PHONY: demo test quick cover commands check bench prove simulate scale docs lock clean help
.DEFAULT_GOAL := help

help:
	@sed -n '/^#   make/s/^# *//p' Makefile

demo: $(FIRST_DAY)
	$(BIN)/tandem demo

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Of the slow half, real servers and real seconds, whatever fails beside others on a few cores has to pass alone.
REAL = slow and not prove and not commands
test: $(DEV)
	$(PYTEST) -m "not prove and not slow" $(ARGS)
	$(PYTEST) -m "$(REAL)" $(ARGS) || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m "$(REAL)" $(ARGS)

# The longest commands, and every page as it is written.
commands: $(DEV)
	$(PYTEST) -m "commands and not prove" $(ARGS)

quick: $(DEV)
	$(PYTEST) -m "not prove and not slow" $(ARGS)

# Of the quick half: what it leaves out runs in processes of their own, which are not measured. Takes half as long again.
cover: $(DEV)
	$(PYTEST) -m "not prove and not slow" --cov --cov-report=term $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.infra

bench: $(DEV)
	$(BIN)/python -m tests.bench $(ARGS)

prove: $(DEV)
	$(BIN)/python -m pytest -m prove -s $(ARGS)

scale: $(DEV)
	$(BIN)/python -m tests.bench.scale

simulate: $(DEV)
	SEEDS=$(SEEDS) $(BIN)/python -m pytest -n $(WORKERS) -k simulat $(ARGS)

docs: $(DEV)
	$(BIN)/python -m tests.docs

# Environments ---------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The project itself is built by the locked hatchling, not by one that pip would fetch.
INSTALL = $(PIP) install --quiet --require-hashes -r $(1) \
	&& $(PIP) install --quiet --no-deps --no-build-isolation --editable .

$(FIRST_DAY): requirements.lock pyproject.toml | $(BIN)/python
	$(call INSTALL,requirements.lock)
	@touch $@

# The second lock is a superset of the first, at the same versions.
$(DEV): requirements-dev.lock requirements.lock pyproject.toml | $(BIN)/python
	$(call INSTALL,requirements-dev.lock)
	@touch $(FIRST_DAY) $@

# Locks ----------------------------------------------------------------------------------------------------------------
#
# requirements.lock       what the first day needs: the base, the extras `local`, `openai` and `ui`, and the dependency group
#                         `build` (hatchling and editables, so that nothing is fetched while building)
# requirements-dev.lock   the same and the extra `dev`, constrained to the same versions
#
# Both hold for every platform and Python 3.11 or later, with hashes and without addresses. uv does not read pip's
# configuration, so the registry is handed on. Versions stay as they are; for newer ones: make lock UPGRADE=--upgrade

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE) --extra local --extra openai --extra ui --group build

lock: $(DEV)
	@index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; set -ex; \
	$(COMPILE) pyproject.toml --output-file requirements.lock; \
	$(COMPILE) --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
