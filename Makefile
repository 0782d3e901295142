# Each command sets up what it needs. Nothing outside this folder is touched.
.DEFAULT_GOAL := help
.PHONY: FORCE help demo up set-up sync backend down status logs env doctor plan test test-all test-nightly test-deploy test-live \
  test-times bench contracts validate check check-style check-types check-sql check-docs check-lock hooks docs site render lock \
  keys env-file clean wheel release test-ranges

PYTHON ?= python3
DATASET ?= shared_forecasts
BIN := .venv/bin
SANDBOX := $(BIN)/python -m sandbox
# Airflow makes a folder where it is imported.
WITH_PACKAGE := AIRFLOW_HOME=$(CURDIR)/.venv/airflow PYTHONPATH=plugins:.
# $(call switch,NAME,--option): the option when NAME is 1. FULL_REFRESH=no must not be a full refresh.
switch = $(if $(filter-out 0 1,$($1)),$(error $1=$($1) is neither 0 nor 1),$(if $(filter 1,$($1)),$2))
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --custom-compile-command 'make lock' requirements-dev.txt

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment, exactly as locked. The script looks at each command whether it has the right Python and packages.
.venv/.installed: FORCE
	@.ci/make_venv '$(PYTHON)' '$(origin PYTHON)' 'make $(or $(firstword $(MAKECMDGOALS)),$@)'

# Spark, for the nightly tests of that mark. A new lock removes it, and it is installed again.
.venv/.spark: requirements-spark.txt .venv/.installed
	@echo "- Installing Spark for the tests into .venv (580 MB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement requirements-spark.txt
	@touch $@

demo: .venv/.installed ## Run one whole sync and show it; stops what it starts
	@$(SANDBOX) demo

up: .venv/.installed ## Start the sandbox and Airflow, and leave them running
	@$(SANDBOX) up

set-up: .venv/.installed ## Create on the running stack what new datasets need in Snowflake
	@$(SANDBOX) set-up

sync: .venv/.installed ## Sync on the running stack: make sync DATASET=shared_forecasts [DRY_RUN=1] [FULL_REFRESH=1] [VERIFY=1]
	@$(SANDBOX) sync '$(DATASET)' $(call switch,DRY_RUN,--dry-run) $(call switch,FULL_REFRESH,--full-refresh) \
	  $(call switch,VERIFY,--verify)

backend: .venv/.installed ## Start the example backend beside a running stack: make backend [PORT=8000]
	@environment=$$($(SANDBOX) env) && eval "$$environment" && exec $(BIN)/python -m examples.backend.app $(if $(PORT),--port $(PORT))

down: .venv/.installed ## Stop everything that make up started
	@$(SANDBOX) down

status: .venv/.installed ## Say what is running; for programs: make status JSON=1
	@$(SANDBOX) status $(call switch,JSON,--json)

logs: ## Show the last lines of the processes' logs
	@tail -n 20 $${SANDBOX_HOME:-.sandbox}/logs/*.log

doctor: .venv/.installed ## Check the running stack, or the deployment of AIRFLOW_CONN_...: what is wrong, how to fix it [JSON=1] [SOURCES=1]
	@$(SANDBOX) doctor $(call switch,JSON,--json) $(call switch,SOURCES,--sources)

plan: .venv/.installed ## Say what the next sync would do, and what is in its way: make plan DATASET=shared_forecasts [JSON=1]
	@$(SANDBOX) plan '$(DATASET)' $(call switch,JSON,--json)

env: .venv/.installed ## Print export lines with the addresses and sign-ins of the running stack
	@$(SANDBOX) env

# The tier is an option of its own, so that an expression in PYTEST_ARGS selects from the tier. CONTRIBUTING.md says
# what is in which.
TIER ?= quick
test: .venv/.installed ## Run the tests that answer in minutes
	@$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder --tier $(TIER) $(PYTEST_ARGS)

test-all: .venv/.installed ## Run all tests that a change needs: those of make test too
	@$(MAKE) --no-print-directory test TIER=quick,full

test-nightly: .venv/.installed ## Run what takes long: broken emulators, Spark, random syncs, other ways to run it
	@$(MAKE) --silent --no-print-directory .venv/.spark || { \
	  test -z "$$CI" && echo "- Spark cannot be installed: the tests of it are skipped"; }
	@$(MAKE) --no-print-directory test TIER=nightly

test-deploy: .venv/.installed ## Rehearse other ways to run it; as root, with PostgreSQL and Redis installed
	@$(MAKE) --no-print-directory test TIER=nightly PYTEST_ARGS="-m deploy --numprocesses 0 $(PYTEST_ARGS)"

test-ranges: .venv/.installed ## Sync with the oldest and with the newest packages that the wheel allows, each installed anew
	@$(BIN)/python -m pytest --numprocesses 0 --tier nightly tests/e2e/test_ranges.py $(PYTEST_ARGS)

test-live: .venv/.installed ## Try on real accounts what the package relies on: docs/live-tests.md
	@DATA_SHARE_LIVE=1 $(BIN)/python -m pytest -p no:xdist --tier quick,full,nightly tests/live $(PYTEST_ARGS)

contracts: .venv/.installed ## Show where the contract of Databricks' API and the SDK of this environment differ
	@$(BIN)/python -m tests.contracts.drift

test-times: .venv/.installed ## Measure what the tests of each tier cost
	@$(BIN)/python -m tests.measure_tiers

bench: .venv/.installed ## Measure speed and cost against the bars of docs/performance.md; one: make bench BENCH=latency [RUNS=7]
	@$(BIN)/python -m benchmarks $(BENCH) $(if $(RUNS),--runs $(RUNS))

# The hooks of .pre-commit-config.yaml run these parts one by one.
check: check-style check-types check-sql check-docs validate check-lock ## Check style, types, SQL, lock, datasets; changes nothing

check-style: .venv/.installed
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

check-types: .venv/.installed
	@$(BIN)/mypy

check-sql: .venv/.installed
	@$(WITH_PACKAGE) $(BIN)/sqlfluff lint --disable-progress-bar include/sql tests/live
	@cd include/sql/databricks && ../../../$(BIN)/sqlfluff lint --disable-progress-bar .

check-docs: .venv/.installed
	@$(WITH_PACKAGE) $(BIN)/python docs/generate_docs.py --check

check-lock: .venv/.installed
	@cp requirements.lock .venv/requirements.lock
	@$(COMPILE) --output-file .venv/requirements.lock
	@diff requirements.lock .venv/requirements.lock || { echo "requirements.lock is out of date: make lock"; exit 1; }

validate: .venv/.installed ## Validate dataset files and include/share.yaml: file, line, field and reason of each mistake
	@PYTHONPATH=plugins $(BIN)/python -m data_share.validate

hooks: .venv/.installed ## Let git run the checks of make check before each commit
	@$(BIN)/pre-commit install

docs: .venv/.installed ## Generate docs/datasets.md and the JSON Schema of dataset files
	@$(WITH_PACKAGE) $(BIN)/python docs/generate_docs.py

site: .venv/.installed ## Build the documents as a site with search, into dist/site; a link that leads nowhere is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . dist/site
	@echo "- dist/site/index.html"

wheel: .venv/.installed ## Build the wheel and the source distribution of the package, into dist/
	@$(BIN)/python -m hatchling build

release: ## Make a release: version, changelog, notes, commit, tag: make release VERSION=0.2.0; pushes nothing
	@$(PYTHON) .ci/release $(VERSION)

render: .venv/.installed ## Write the set-up of include/share.yaml: scripts, policies, bundle, commands, into rendered/
	@$(WITH_PACKAGE) $(BIN)/python -m data_share.render

lock: .venv/.installed ## Resolve requirements*.txt again into requirements.lock
	@$(COMPILE) --upgrade --output-file requirements.lock

env-file: ## Write .env for docker compose: make env-file [ENV=sandbox] [PROFILE=economy]
	@$(PYTHON) deploy/make_env.py $(if $(PROFILE),--profile '$(PROFILE)') $(if $(ENV),$(if $(filter-out sandbox,$(ENV)),$(error ENV=$(ENV) is not known: ENV=sandbox, or nothing for real accounts),--sandbox))

keys: .venv/.installed ## Make a key pair for Airflow's user in Snowflake; for a second one: make keys KEY=another [SHARE=emea]
	@PYTHONPATH=plugins $(BIN)/python -m data_share.snowflake.make_keys $(if $(KEY),--name $(KEY)) $(if $(SHARE),--share $(SHARE))

clean: down ## Stop everything and remove the sandbox's state
	rm -rf .sandbox
