.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
PROTOS := $(sort $(wildcard protos/signalbox/v1/*.proto))

# Tests of every layer that neither start processes nor wait in real time.
QUICK_TESTS := access automations coercion conditions consume contacts definitions dialects drafts errors ingest \
    json_values layering log_ids paging projects queue schema structs suggestions texts timestamps reverse_coercion

# Tests of laws whose long form has only more examples.
LAWS := coercion reverse_coercion conditions conditions_tracing paging inference explain fields proto_json

.PHONY: help run tools test test-quick test-long check check-static fix format lint types proto-lint generate docs \
    siege torture mutants bench bench-quick bench-check bench-rest bench-automations clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/running: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Signalbox needs Python >= 3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/ready: $(VENV)/running
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(VENV)/running ## Start a server with a demo project; its data are in signalbox.db
	@exec $(BIN)/signalbox serve --dev

tools: $(VENV)/ready ## Install the development tools into .venv; targets that need them do so themselves

# Tests start dozens of processes: without cached bytecode each would compile everything that it imports.
test test-quick test-long siege torture: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/ready ## Run all tests, four at a time because they wait half of the time (WORKERS=0: one by one)
	$(PYTEST)

test-quick: $(VENV)/ready ## Run the quick tests of every layer, on SQLite alone, in under a minute
	$(PYTEST) -k 'not postgresql' $(QUICK_TESTS:%=tests/test_%.py)

test-long: $(VENV)/ready ## Run the long forms of the generated tests, for hours
	SIGNALBOX_COMPATIBILITY_STEP=1 $(BIN)/python -m pytest --timeout=0 tests/test_compatibility.py
	SIGNALBOX_ORACLE_EXAMPLES=200000 $(BIN)/python -m pytest --timeout=0 tests/test_conditions_oracle.py
	SIGNALBOX_INDEX_EXAMPLES=20000 $(BIN)/python -m pytest --timeout=0 tests/test_conditions_index.py
	SIGNALBOX_LEASING_EXAMPLES=2000 $(BIN)/python -m pytest --timeout=0 tests/test_leasing_model.py
	SIGNALBOX_RENAMING_SEEDS=200 $(BIN)/python -m pytest --timeout=0 tests/test_renaming.py
	SIGNALBOX_SCHEDULES=100000 $(BIN)/python -m pytest --timeout=0 tests/test_dispatcher.py
	SIGNALBOX_VALUES_EXAMPLES=2000 $(BIN)/python -m pytest --timeout=0 tests/test_values.py
	SIGNALBOX_OPENAPI_EXAMPLES=100 $(BIN)/python -m pytest --timeout=0 tests/test_openapi.py
	SIGNALBOX_POWER_CUTS=200 $(BIN)/python -m pytest --timeout=0 tests/test_power_loss.py
	SIGNALBOX_FRAMING_STEP=1 $(BIN)/python -m pytest --timeout=0 tests/test_http_framing.py
	SIGNALBOX_EXAMPLES_FACTOR=100 $(BIN)/python -m pytest --timeout=0 $(LAWS:%=tests/test_%.py)
	SIGNALBOX_FUZZ_ROUNDS=1000 $(BIN)/python -m pytest --timeout=0 tests/test_fuzz.py
	SIGNALBOX_PROMISES_SECONDS=600 $(BIN)/python -m pytest --timeout=0 tests/test_promises.py

check: check-static test ## Run every check and all tests: what a change must pass

check-static: format lint types proto-lint ## Check format, lint, types and the contract

fix: $(VENV)/ready ## Format the code and the contract, and repair what the linter can
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format
	$(BIN)/buf format --write protos

format: $(VENV)/ready ## Check the format of the code
	$(BIN)/ruff format --check

lint: $(VENV)/ready ## Check the code by the linter
	$(BIN)/ruff check

types: $(VENV)/ready ## Check the types
	$(BIN)/mypy

proto-lint: $(VENV)/ready ## Check style, format and compatibility of the contract
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	@if git rev-parse --verify --quiet main >/dev/null; then $(BIN)/buf breaking --against '.git#branch=main'; fi

generate: $(VENV)/ready ## Regenerate generated/ from protos/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=generated --mypy_out=quiet:generated \
	    --grpc_python_out=generated --mypy_grpc_out=quiet:generated $(PROTOS)

docs: $(VENV)/ready ## Regenerate the generated pages of docs/, and the output that README and docs/ show
	$(BIN)/python -m registry.coercion.docs > docs/coercion.md
	$(BIN)/python -m registry.compatibility.docs > docs/compatibility.md
	$(BIN)/python -m tests.support.console
	$(BIN)/python -m tests.support.metrics_docs

siege: $(VENV)/ready ## Attack a server as one client can, and show what its neighbour feels (ARGS="--rows 1,3")
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.siege $(ARGS)

torture: $(VENV)/ready ## Kill servers and databases under load, and check every promise (ARGS="--kills 500")
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.torture $(ARGS)

mutants: $(VENV)/ready ## Put small faults into a sample of the code, and name those that no test notices (ARGS="--package registry")
	@$(BIN)/python -m tests.mutants $(ARGS)

bench: $(VENV)/ready ## Measure everything, beside peers that are installed, and write docs/performance.md (ARGS="--groups rest")
	@$(BIN)/python -m bench.all $(ARGS) && $(BIN)/python -m bench.page

bench-quick: $(VENV)/ready ## Measure against bare servers, in two minutes
	@$(BIN)/python -m bench.quick

bench-check: $(VENV)/ready ## Compare the speed of this checkout with main's, and fail on a loss (ARGS="COMMIT --rows stream")
	@$(BIN)/python -m bench.check $(ARGS)

bench-rest: $(VENV)/ready ## Measure the REST bridge against an echo and a service written by hand, and Connect against gRPC
	@$(BIN)/python -m bench.rest

bench-automations: $(VENV)/ready ## Measure sending among 10,000 automations against 10
	@$(BIN)/python -m bench.automations

clean: ## Remove the environment and everything built; data stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
