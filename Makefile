# Everything a fresh machine needs is Python 3.11 or newer: `make run`, `make test`.

PYTHON ?= python3
LISTEN ?= 127.0.0.1:8080
ADMIN ?= 127.0.0.1:8081
UPSTREAM ?=
ARGS ?=

BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet
COMPILE := .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help run test check bench bench-million bench-eviction format lock clean redis-server faketime chromium
.DELETE_ON_ERROR:

help:
	@echo "make run     serve UPSTREAM=https://… on LISTEN=$(LISTEN); without UPSTREAM, a slow demo API"
	@echo "make test    every test (ARGS='-k name' for some)"
	@echo "make check   lint, format, types, import rules"
	@echo "make bench   measure it beside nginx (needs wrk and nginx; ARGS='--only hit-1k', '--list', '--help')"
	@echo "make bench-million, make bench-eviction   what a million entries cost; what eviction keeps"
	@echo "make format  put the code in its format"
	@echo "make lock    the newest dependencies into the lock files"
	@echo "make clean   remove what the above has made"

run: .venv/installed
ifeq ($(UPSTREAM),)
	@$(BIN)/python -m proxy.demo --try http://$(LISTEN) -- \
		$(BIN)/readthrough serve --upstream '{url}' --listen '$(LISTEN)' --admin '$(ADMIN)'
else
	@$(BIN)/readthrough serve --upstream '$(UPSTREAM)' --listen '$(LISTEN)' --admin '$(ADMIN)'
endif

test: .venv/installed-dev .venv/installed-node redis-server faketime chromium
	$(BIN)/pytest $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/installed
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-million: .venv/installed-dev
	@$(BIN)/python -m tests.benchmarks.million $(ARGS)

bench-eviction: .venv/installed
	@$(BIN)/python -m tests.benchmarks.eviction $(ARGS)

format: .venv/installed-dev
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	$(COMPILE) pyproject.toml --group build -o requirements.lock
	$(COMPILE) pyproject.toml --group build --extra dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) --group node -o requirements-node.lock

clean:
	rm -rf .venv .venv-lock build dist *.egg-info tests/conformance/node_modules \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find proxy tests -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Readthrough needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		     "Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml requirements.lock
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

# Tests of what instances share need a Redis server. Where there is none, and Debian's packages may be
# installed, one is, without starting it as a service; where they may not, the tests say what to install.
redis-server:
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null \
		|| ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] \
		|| { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends redis-server >/dev/null; } || true

# Likewise what gives a process a wrong clock.
faketime: redis-server
	@command -v faketime >/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends faketime >/dev/null; } || true

# Likewise a browser for the dashboard. Where there is no Debian, `.venv/bin/playwright install chromium` brings one.
chromium: faketime
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || ! command -v apt-get >/dev/null \
		|| [ "$$(id -u)" != 0 ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || true

# The conformance suite needs Node 18 or newer with npm; where the machine has none, a package carries one.
.venv/installed-node: .venv/installed requirements-node.lock
	@npm --version >/dev/null 2>&1 && node -e 'process.exit(parseInt(process.versions.node) < 18)' 2>/dev/null \
		|| $(PIP) --require-hashes -r requirements-node.lock
	@touch $@
