# `make demo` shows it, `make test` proves it; each sets up everything it needs by itself.

PYTHON ?= python3
# Per cent of statements and branches that the tests must reach.
COVERAGE ?= 97
# More words for pytest: make test ARGS='-k pools -x'
ARGS ?=

# Another Python is another environment.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := .venv/bin
READY := .venv/.ready-$(VERSION)
OLDEST := build/oldest
OLDEST_TESTS := tests/probes tests/signals/test_traces.py tests/test_spans.py tests/test_tracing.py \
	tests/test_instrument.py
# What FastAPI itself brought later: telemetry in 0.142, routers that slowapi does not see in 0.137; and a
# queue of spans that the OpenTelemetry SDK lets others look into. Calls are counted with the newest only.
NOT_YET := native or spared_asking or uninstrument_restores_the_app or slowapi_passes_over or \
	spans_that_wait_are_told or test_calls

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help demo test oldest bench soak drill lint clean parts check

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Run a shop under load and show what was seen, in about a minute
	@$(BIN)/python -m examples.demo

test: parts lint check ## Run every check and every test, on real servers
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=$(COVERAGE)

oldest: parts $(OLDEST)/.ready-$(VERSION) ## Test adapters and tracing with the oldest releases that we claim
	$(OLDEST)/bin/python -m pytest -q -W default::DeprecationWarning -k 'not ($(NOT_YET))' \
		$(OLDEST_TESTS) $(ARGS)

bench: $(READY) ## Measure what fastobs costs
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.workers
	@$(BIN)/python -m benchmarks.events
	@$(BIN)/python -m benchmarks.boards
	@$(BIN)/python -m benchmarks.idle
	@$(BIN)/python -m benchmarks.slow

soak: $(READY) ## Kill, recycle and reload workers under load for half an hour, and count
	@$(BIN)/python -m tests.soak $(ARGS)

drill: parts ## Break a shop in nine ways and see that the right alerts come and go, in eight minutes
	@$(BIN)/python -m tests.drill $(ARGS)

lint: $(READY) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p fastobs -p dashboards -p alerts -p tests

clean: ## Remove what was made, the environment included
	rm -rf .venv .parts .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache build dist demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The boards and rules in the repository are those that the code makes.
check: $(READY)
	$(BIN)/python -m dashboards --check
	$(BIN)/python -m alerts --check
	$(BIN)/python -m docs --check

# The servers and the browser that pip cannot install.
parts: $(READY)
	@$(BIN)/python -m tests.parts.install

# What is not named in tests/oldest.txt is as new as the oldest releases bear.
$(OLDEST)/.ready-$(VERSION): pyproject.toml tests/oldest.txt
	@$(PYTHON) -m venv --clear $(OLDEST)
	@echo "Installing the oldest releases into $(OLDEST), once …"
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable . --requirement tests/oldest.txt
	@touch $@

# Done again only when the dependencies change.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fastobs needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$$($(PYTHON) --version) cannot make virtual environments." \
			"On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing the Python packages into .venv, once …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
