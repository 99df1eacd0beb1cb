# `make` prints the targets. Everything is installed into .venv, and again when pyproject.toml
# changes; .cache/ holds what is derived. Both may be deleted at any time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venv/installed ## calibrate a predator-prey model as a Prefect flow
	$(BIN)/python -m prefect_optuna.deployments.demo

.PHONY: ui
ui: .venv/installed ## open Prefect's UI on what the demo has left
	$(BIN)/python -m prefect_optuna.deployments.ui

# Three at once, for many wait for servers; in the order of the files, so that the long ones, which
# have few tests, do not come last.
.PHONY: test
test: .venv/installed-test chromium ## run the tests; ARGS="-k name" goes to pytest
	$(BIN)/python tests/servers.py
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

# What is marked `slow`: the same promises with more processes, servers and kills. CI runs it, too.
.PHONY: test-slow
test-slow: .venv/installed-test chromium ## run the tests that are too slow for `make test`
	$(BIN)/python tests/servers.py
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
		-m slow $(ARGS)

# The whole suite with what is marked `slow` and `heavy`, and all about Redis on each server that speaks its
# protocol. What cannot be had fails; nothing is left out.
.PHONY: test-all
test-all: export PREFECT_OPTUNA_TEST_ALL := 1
test-all: .venv/installed-test-all .cache/azurite/installed chromium redis-server mariadb-server ## run the tests, the heavy ones too, on every server
	$(BIN)/python tests/servers.py
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)
	for server in $$($(BIN)/python tests/servers.py --redis); do \
		echo "== $$server"; \
		PREFECT_OPTUNA_REDIS_SERVER=$$server $(BIN)/python -m pytest --numprocesses=3 \
			--dist=loadfile tests/blocks/redis_storage $(ARGS); \
	done

# In an environment of its own, where nothing that we depend on is newer than it has to be. uv trusts
# the certificates that the system does, as pip may have been told to.
.PHONY: test-lowest
test-lowest: .cache/lowest/installed chromium ## run the tests with the lowest versions that pyproject.toml allows
	.cache/lowest/bin/python tests/servers.py
	.cache/lowest/bin/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

.PHONY: lint
lint: .venv/installed-test .cache/typing/prefect_optuna ## check style, types and that floors import downwards only
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 . # no text in the encoding of whoever runs it
	$(BIN)/ruff format --check .
	$(BIN)/python tests/lint/floors.py
	$(BIN)/python tests/lint/house.py
	$(BIN)/pyright
	$(BIN)/python tests/lint/verify_types.py

# The threshold is in pyproject.toml. What runs without our environment variables is not counted. That a
# thread begins while another one's tracing does is an error of the tracer's, and no test's.
.PHONY: coverage
coverage: .venv/installed-test chromium redis-server ## measure which branches the tests reach; fails below the threshold
	rm -rf .cache/coverage; mkdir -p .cache/coverage
	$(BIN)/coverage run -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
		-m "slow or not slow" -W default::pytest.PytestUnraisableExceptionWarning $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

.PHONY: house
house: ## say how large the package is: lines, modules, names, errors, circles of imports
	@$(PYTHON) tests/lint/house.py

.PHONY: bench
bench: .venv/installed-bench .cache/neuralib/installed ## run the benchmarks; ratios within one run
	for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python "$$bench"; done

.PHONY: peers
peers: .venv/installed .cache/peers/installed ## measure the same study with others that can be installed
	$(BIN)/python tests/benchmarks/peers.py $(ARGS)

.PHONY: docs
docs: .venv/installed-docs .venv/installed-test chromium ## build the documentation site into .cache/site/html, and run its code
	$(BIN)/python deployments/site/build.py
	$(BIN)/python -m pytest --numprocesses=3 --dist=worksteal -m "slow or not slow" \
		tests/packaging/test_site.py tests/packaging/test_examples.py

.PHONY: again
again: .venv/installed-again ## archive, delete and run again scripts as people write them
	$(BIN)/python tests/again/run.py $(ARGS)

.PHONY: fuzz
fuzz: .venv/installed-test ## give damaged files, attributes and URLs to their readers; SECONDS=600
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(SECONDS),60) $(ARGS)

.PHONY: chaos
chaos: .venv/installed-test redis-server faketime ## run a study through a storm of faults; SECONDS=600 SEED=7
	$(BIN)/python tests/chaos/storm.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: lab
lab: .venv/installed-test ## break things in a lab of containers; FAULTS="kill cut install pool", or all
	$(BIN)/python tests/chaos/lab.py $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

.PHONY: clean
clean: ## remove everything that make has made, the environment included
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps lie inside the environment, so that they go with it.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed; this is Python %s. Name another one: make PYTHON=python3.13 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[examples]"
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@ .venv/installed

.venv/installed-test-all: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[test-all]"
	touch $@ .venv/installed-test .venv/installed

.cache/lowest/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet uv
	UV_NATIVE_TLS=1 UV_SYSTEM_CERTS=1 $(@D)/bin/uv pip install --quiet \
		--python $(@D)/bin/python --resolution lowest-direct \
		--editable ".[test]"
	touch $@

.PHONY: mariadb-server
mariadb-server:
	@if command -v mariadb-install-db >/dev/null; then exit; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends mariadb-server; \
	else \
		echo "The tests of MySQL run on MariaDB, and there is no mariadb-install-db on the PATH." >&2; \
		echo "Install it, for example: sudo apt-get install mariadb-server; brew install mariadb" >&2; \
		exit 1; \
	fi

# npm has certificates of its own; where those do not do, it is asked to trust what the system trusts.
.cache/azurite/installed: AZURITE = --no-audit --no-fund --loglevel=error --prefix $(@D) azurite
.cache/azurite/installed:
	@command -v npm >/dev/null || { echo "Azurite, which stands for Azure in the tests, needs Node.js with npm. Install it, for example: sudo apt-get install npm" >&2; exit 1; }
	mkdir -p $(@D)
	npm install $(AZURITE) || NODE_OPTIONS=--use-openssl-ca npm install $(AZURITE)
	touch $@

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@ .venv/installed-test .venv/installed

.venv/installed-again: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[again]"
	touch $@ .venv/installed-test .venv/installed

.venv/installed-docs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@ .venv/installed

# An environment for each, for some exclude others. What cannot be installed is named beside the
# tables; there is no stamp then, so that it is tried again.
.cache/peers/installed: tests/benchmarks/peers.py .venv/installed
	$(BIN)/python tests/benchmarks/peers.py --install

# It brings a gigabyte along, and versions of its own.
.cache/neuralib/installed: | .venv/bin/python
	$(PYTHON) -m venv .cache/neuralib
	.cache/neuralib/bin/pip install --quiet "neura-library>=0.6"
	touch $@

# A type checker does not see the mapping of an editable install, so the package gets a folder
# of its own name: this repository.
.cache/typing/prefect_optuna:
	mkdir -p $(@D)
	ln -sfn ../.. $@

.PHONY: redis-server
redis-server:
	@if command -v redis-server >/dev/null; then exit; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends redis-server; \
	else \
		echo "The tests run on Redis, and there is no redis-server on the PATH." >&2; \
		echo "Install it, for example: sudo apt-get install redis-server; brew install redis" >&2; \
		exit 1; \
	fi

# Without it, the clocks of the storm do not jump, and it says so.
.PHONY: faketime
faketime:
	@if ! ls /usr/lib/*/faketime >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends faketime; \
	fi

.PHONY: chromium
chromium:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chromium; \
	else \
		echo "The tests look at Prefect's UI in Chromium, and there is none on the PATH." >&2; \
		echo "Install it, for example: sudo apt-get install chromium; brew install --cask chromium" >&2; \
		exit 1; \
	fi
