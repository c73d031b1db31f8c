# `make help` prints each target with the text after its ##.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo picture browser test test-all attacks faults check without without-all audit format contract docs bench lock archive release-check clean

help: ## Show this list of targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Create .venv with pinned dependencies, verified by hash

# Lock files contain versions and hashes but no index host: pip uses the index of its own settings.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "valetkey needs Python 3.11 to 3.13: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Demonstrate grants and refusals on embedded servers
	@$(BIN)/python -m examples.demo

picture: install ## Draw docs/demo.svg, the picture of the demo's terminal
	@$(BIN)/python -m tools.demo_picture

browser: install ## Install npm packages, Chromium, Prometheus and PostgreSQL 15 to 17 for tests, if missing
	@$(BIN)/python tools/browser.py

# Two processes run one test file at a time, those with processes of their own first. Each starts
# the servers that its files need.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install ## Prove every law and promise, on servers of its own (5 minutes)
	@echo "Running the quick tests in two processes, with servers of their own: about 5 minutes."
	@$(PYTEST) -m quick

test-all: test ## Run `make test`, then all other tests (half an hour more)
	@echo "Running all other tests in two processes: about half an hour."
	@$(PYTEST) -m slow

# The same SEED gives the same attacks, and the same moments of faults.
SEED ?= 1

attacks: install ## Attack the service for some ten minutes, and print what was tried
	VALETKEY_TEST_ATTACKS=long VALETKEY_TEST_SEED=$(SEED) $(BIN)/python -m pytest tests/attacks

# Each fault is injected FAULTS times. 3 take about 13 minutes.
FAULTS ?= 3
faults: install ## Kill, stop or fill up each part under load, and check all rows
	VALETKEY_TEST_FAULTS=$(FAULTS) VALETKEY_TEST_FAULTS_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -p tests.faults.table

check: install ## Check lint, types, imports, sizes and known vulnerabilities
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.sizes
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive valetkey models worker tools bench examples
	@$(MAKE) --no-print-directory audit

# FEATURE=today is another one each day. QUICK=--quick checks imports, types and --help only.
without: install ## Copy the project without FEATURE and what needs it, and use what is left
	@$(BIN)/python -m tools.without $(FEATURE) $(QUICK)

without-all: install ## Run `make without` for every feature, one at a time
	@$(BIN)/python -m tools.without all $(QUICK)

# Passes without a network, and says that nothing was checked.
audit: install ## Check the locked packages for known vulnerabilities
	@$(BIN)/python tools/audit.py

format: install ## Format the code and apply automatic lint fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

contract: install ## Generate the pages of reference that are made of the code
	$(BIN)/python -m worker contract --out docs/contract
	$(BIN)/python -m tools.reference_pages

docs: install ## Build the site of the documentation into site/, from what is here
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . site
	@echo "Open site/docs/index.html"

bench: install ## Run the benchmarks; they report ratios within one run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	$(BIN)/python -m bench

lock: ## Update the lock files (needs uv)
	uv pip compile pyproject.toml --group worker $(LOCK) --output-file requirements.lock
	uv pip compile pyproject.toml --group worker --group dev $(LOCK) --output-file requirements-dev.lock
	uv pip compile --group bench --constraint requirements-dev.lock $(LOCK) --output-file requirements-bench.lock
	uv pip compile --group release --constraint requirements-dev.lock $(LOCK) --output-file requirements-release.lock

LOCK := --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

# `make release-check` compares the archive with the commit.
RELEASED := valetkey worker models celeryconfig.py docs/contract

archive: ## Archive the committed release for tests/compatibility, in place of the one before
	rm -f tests/compatibility/v*.tar.xz
	git archive HEAD $(RELEASED) | xz -9e > tests/compatibility/v$$(sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml).tar.xz

# Installs the wheel as a producer does, so it needs a package index. BETWEEN=--between-releases
# leaves out that the commit is the release.
release-check: install ## Build the packages, and check them and what a release needs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-release.lock
	@$(BIN)/python -m tools.release_check $(BETWEEN)

clean: ## Remove .venv, caches and local data
	rm -rf .venv .valetkey site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist examples/*/node_modules
