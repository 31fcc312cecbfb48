# Needs Python 3.11 or newer and make; everything else goes into .venv, once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# `make ask COUNTRY=KEN QUESTION="..." OPTIONS="One;Other"`. One's own question without OPTIONS gets a free answer.
# $(value ...) keeps a dollar sign in a question as it stands; the shell sees all three as variables, never as code.
COUNTRY ?= NZL
ifeq ($(origin QUESTION),undefined)
QUESTION := Which matters more to people: freedom or equality?
OPTIONS ?= Freedom;Equality;Don't know
endif
export ASK_COUNTRY := $(value COUNTRY)
export ASK_QUESTION := $(value QUESTION)
export ASK_OPTIONS := $(value OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help ask test quick lint typecheck format docs

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ask: $(VENV)/.ask  ## ask a country a question: COUNTRY=KEN QUESTION="..." OPTIONS="One;Other"
	@set -f; IFS=';'; set --; for option in $$ASK_OPTIONS; do set -- "$$@" --option "$$option"; done; \
	exec $(PY) -m palette ask --country "$$ASK_COUNTRY" "$$@" -- "$$ASK_QUESTION"

test: $(VENV)/.dev  ## run the whole test suite
	$(PY) -m pytest $(if $(CI),-ra --color=no --durations=10)

quick: $(VENV)/.dev  ## run the tests that are not marked slow
	$(PY) -m pytest -m "not slow and not gpu and not network"

lint: $(VENV)/.dev  ## ruff, rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: $(VENV)/.dev  ## mypy --strict
	$(PY) -m mypy

format: $(VENV)/.dev  ## mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.dev  ## write docs/cli.md from --help
	$(PY) -m palette.cli.page > docs/cli.md.new && mv docs/cli.md.new docs/cli.md

# Stamps: a second call installs nothing until pyproject.toml changes.
$(VENV)/.ask: pyproject.toml | $(VENV)/.made
	@test $(VENV)/.dev -nt pyproject.toml || \
	{ echo "Installing the embedded palette into $(VENV) (first time only; some minutes)" >&2; $(PIP) -e '.[embedded]'; }
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing everything the tests need into $(VENV) (first time only; some minutes)" >&2
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.ask

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	"Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@touch $@
