# Commands of the project. Needs GNU make and Python 3.11 or newer, nothing else of ours.
# Every path here is relative: the folder may have a space in its name.
#
#   make test PYTHON=python3.12      another Python (with a new environment)
#   make test ARGS='-k journal -x'   arguments for pytest

PYTHON ?= python3
MINUTES ?= 5
SEEDS ?= 2000
ARGS ?=

python_version := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
# The name of the stamp has the Python version, so that another Python means another set-up.
stamp := .venv/set-up-$(python_version)
run := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-run run test check audit bench bench-check bench-stores flood crash-long contract-long updates-long simulate simulate-bugs fuzz mutants lock clean

help: ## show the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(stamp) ## make .venv from the hash-pinned lock, with .venv/bin/rebundle

$(stamp): requirements/dev.lock requirements/install.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11: name another one with make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv module" \
	       "(Debian, Ubuntu: apt-get install python3-venv), then run make again" >&2; exit 1; }
	@$(run) -c 'import pip, sys; sys.exit("%d.%d.%d" % sys.version_info[:3] != "$(python_version)")' 2>/dev/null || { \
	  echo "Making .venv with Python $(python_version) (a few seconds)"; $(PYTHON) -m venv --clear .venv; } || { \
	  echo "Making .venv failed. Free space, or remove it (make clean), then run make $(MAKECMDGOALS) again" >&2; exit 1; }
	@rm -f .venv/set-up-*
	@$(run) requirements/install.py requirements/dev.lock --editable .
	@touch $@
	@echo "Set-up is done: .venv/bin/rebundle --help"

demo: setup ## play the main job on the real daemon, below ./var/demo
	$(run) docs/demo/story.py

demo-run: setup ## play a bundle on a Docker Engine, below ./var/demo-run: event, answers, update under load, rollback
	$(run) -m tests.support.demo_run

run: setup ## the daemon in the foreground, everything below ./var
	.venv/bin/rebundle run

test: setup ## every test, on all cores, with branch coverage (ARGS='-n 0 -s' to see what one prints)
	$(run) -m pytest -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

check: setup ## lint, format, types, import contracts, shell scripts, known vulnerabilities
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck --shell=sh --severity=warning renderers/templates/*.sh
	$(MAKE) --no-print-directory audit

audit: setup ## known vulnerabilities of what is installed at run time
	.ci/audit

bench: setup ## time every job against its floor and its peers (ARGS='--sizes 50,500 --only P1,P16')
	$(run) -m tests.benchmarks.run $(ARGS)

bench-check: setup ## the same, and fail where a figure is far worse than docs/performance.md has it
	$(run) -m tests.benchmarks.run --check $(ARGS)

bench-stores: setup ## time publications on real S3 and GCS servers against the bare SDK
	$(run) -m tests.benchmarks.publication $(ARGS)

flood: setup ## two floods from one address, and how long everybody else waits
	$(run) -m tests.support.flood

crash-long: setup ## random kills under load for MINUTES, with figures
	REBUNDLE_CRASH_MINUTES=$(MINUTES) $(run) -m pytest tests/acceptance/test_random_kills.py -q -s

contract-long: setup ## ten thousand races of twelve writers on real servers
	REBUNDLE_RACE_ROUNDS=10000 $(run) -m pytest tests/contract/test_races.py -q

simulate: setup ## play SEEDS simulated worlds (docs/simulation.md), or one with its trace: SEED=… [BUG=…]
	$(run) -m tests.simulation.run --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) $(if $(BUG),--bug $(BUG)) $(ARGS)

simulate-bugs: setup ## plant each bug into hundreds of worlds, write the table of docs/simulation.md
	$(run) -m tests.simulation.run --bugs 100

updates-long: setup ## updates of a running bundle under load, with figures in var/updates.jsonl
	@mkdir -p var && rm -f var/updates.jsonl
	REBUNDLE_UPDATES=var/updates.jsonl REBUNDLE_UPDATE_ROUNDS=10 $(run) -m pytest tests/engine/test_updates.py -q

fuzz: setup ## fuzz every parser of foreign bytes for MINUTES in all (ARGS=pointer-json: one of them)
	$(run) -m tests.fuzz.run --minutes $(MINUTES) $(ARGS)

mutants: setup ## which changes of a pure module its tests do not notice, into docs/mutants.md (MODULE=daemon/batches.py)
	$(run) -m tests.mutants.run $(MODULE) $(ARGS)

# Universal: one lock with markers serves every Python from 3.11 on. It has the hashes of all wheels and of the
# source, and no address, so that it installs from whatever index pip is configured for.
compile := .cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command 'make lock'

lock: .cache/uv/bin/uv ## resolve the locks again (ARGS=--upgrade: to the newest versions)
	$(compile) $(ARGS) pyproject.toml --output-file requirements/runtime.lock
	$(compile) $(ARGS) pyproject.toml --group dev --constraints requirements/runtime.lock \
	  --output-file requirements/dev.lock
	$(compile) $(ARGS) requirements/build.in --constraints requirements/dev.lock \
	  --output-file requirements/build.lock
	for tool in requirements/tools/*.in; do \
	  $(compile) $(ARGS) "$$tool" --output-file "$${tool%.in}.lock" || exit 1; done

.cache/uv/bin/uv: requirements/tools/uv.lock
	$(PYTHON) -m venv --clear .cache/uv
	.cache/uv/bin/python requirements/install.py requirements/tools/uv.lock
	@touch $@

clean: ## remove what these commands made
	rm -rf .venv .cache .coverage* htmlcov build dist var .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache
