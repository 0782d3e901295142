# Each command sets up what it needs. Nothing outside this folder is touched.
.DEFAULT_GOAL := help
.PHONY: help demo up sync backend down status logs env doctor test test-all test-nightly test-deploy test-live test-times contracts check docs lock keys env-file clean

PYTHON ?= python3
DATASET ?= shared_forecasts
BIN := .venv/bin
SANDBOX := $(BIN)/python -m sandbox
# Airflow makes a folder where it is imported.
WITH_PACKAGE := AIRFLOW_HOME=$(CURDIR)/.venv/airflow PYTHONPATH=plugins
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --custom-compile-command 'make lock' requirements-dev.txt

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment, exactly as locked. It is made anew when the lock changes.
.venv/.installed: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "- Installing the locked packages into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.lock)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@touch $@

# Spark, for the nightly tests of that mark. A new lock removes it, and it is installed again.
.venv/.spark: requirements-spark.txt .venv/.installed
	@echo "- Installing Spark for the tests into .venv (580 MB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement requirements-spark.txt
	@touch $@

demo: .venv/.installed ## Run one whole sync and show it; stops what it starts
	@$(SANDBOX) demo

up: .venv/.installed ## Start the sandbox and Airflow, and leave them running
	@$(SANDBOX) up

sync: .venv/.installed ## Sync a dataset on the running stack: make sync DATASET=shared_forecasts
	@$(SANDBOX) sync '$(DATASET)'

backend: .venv/.installed ## Start the example backend beside a running stack: make backend [PORT=8000]
	@environment=$$($(SANDBOX) env) && eval "$$environment" && exec $(BIN)/python -m examples.backend.app $(if $(PORT),--port $(PORT))

down: .venv/.installed ## Stop everything that make up started
	@$(SANDBOX) down

status: .venv/.installed ## Say what is running
	@$(SANDBOX) status

logs: ## Show the last lines of the processes' logs
	@tail -n 20 $${SANDBOX_HOME:-.sandbox}/logs/*.log

doctor: .venv/.installed ## Check the running stack, or the deployment of AIRFLOW_CONN_...: what is wrong, how to mend it
	@$(SANDBOX) doctor

env: .venv/.installed ## Print export lines with the addresses and sign-ins of the running stack
	@$(SANDBOX) env

# pytest is told the tier apart from PYTEST_ARGS, so that an expression in there selects from the tier. CONTRIBUTING.md says
# what is in which.
TIER ?= quick
test: .venv/.installed ## Run the tests that answer in minutes
	@$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder --tier $(TIER) $(PYTEST_ARGS)

test-all: ## Run all tests that a change needs: those of make test too
	@$(MAKE) --no-print-directory test TIER=quick,full

test-nightly: .venv/.installed ## Run what takes long: broken stand-ins, Spark, random syncs, other ways to run it
	@$(MAKE) --silent --no-print-directory .venv/.spark || { \
	  test -z "$$CI" && echo "- Spark cannot be installed: the tests of it are skipped"; }
	@$(MAKE) --no-print-directory test TIER=nightly

test-deploy: ## Rehearse other ways to run it; as root, with PostgreSQL and Redis installed
	@$(MAKE) --no-print-directory test TIER=nightly PYTEST_ARGS="-m deploy --numprocesses 0 $(PYTEST_ARGS)"

test-live: .venv/.installed ## Try on real accounts what the package relies on: docs/live-tests.md
	@DATA_SHARE_LIVE=1 $(BIN)/python -m pytest -p no:xdist --tier quick,full,nightly tests/live $(PYTEST_ARGS)

contracts: .venv/.installed ## Show where the contract of Databricks' API and the SDK of this environment differ
	@$(BIN)/python -m tests.contracts.drift

test-times: .venv/.installed ## Measure what the tests of each tier cost
	@$(BIN)/python -m tests.measure_tiers

check: .venv/.installed ## Check style, types, SQL and the lock; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint --disable-progress-bar include/sql tests/live
	@$(WITH_PACKAGE) $(BIN)/python docs/generate_docs.py --check
	@cd include/sql/databricks && ../../../$(BIN)/sqlfluff lint --disable-progress-bar .
	@cp requirements.lock .venv/requirements.lock
	@$(COMPILE) --output-file .venv/requirements.lock
	@diff requirements.lock .venv/requirements.lock || { echo "requirements.lock is out of date: make lock"; exit 1; }

docs: .venv/.installed ## Generate docs/datasets.md and the JSON Schema of dataset files
	@$(WITH_PACKAGE) $(BIN)/python docs/generate_docs.py

lock: .venv/.installed ## Resolve requirements*.txt anew into requirements.lock
	@$(COMPILE) --upgrade --output-file requirements.lock

env-file: ## Write .env for docker compose: make env-file [ENV=sandbox]
	@$(PYTHON) deploy/make_env.py $(if $(ENV),$(if $(filter-out sandbox,$(ENV)),$(error ENV=$(ENV) is not known: ENV=sandbox, or nothing for real accounts),--sandbox))

keys: .venv/.installed ## Make a key pair for Airflow's user in Snowflake; for a second one: make keys KEY=another
	@$(BIN)/python include/snowflake/make_keys.py $(if $(KEY),--name $(KEY))

clean: down ## Stop everything and remove the sandbox's state
	rm -rf .sandbox
