.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 4
PROTOS := $(sort $(wildcard protos/signalbox/v1/*.proto))

.PHONY: help run test check check-static generate format lint types proto-lint torture bench-quick bench-rest bench-automations mutants clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Signalbox needs Python >= 3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: .venv/ready ## Start a server with a demo project
	@exec $(BIN)/signalbox serve --dev

test: .venv/ready ## Run all tests, four at a time: half of the time they wait (WORKERS=0 for one by one)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: check-static test ## Everything a change must pass

check-static: format lint types proto-lint

format: .venv/ready
	$(BIN)/ruff format --check

lint: .venv/ready
	$(BIN)/ruff check

types: .venv/ready
	$(BIN)/mypy

proto-lint: .venv/ready
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	@if git rev-parse --verify --quiet main >/dev/null; then $(BIN)/buf breaking --against '.git#branch=main'; fi

generate: .venv/ready ## Regenerate generated/ from protos/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=generated --mypy_out=quiet:generated \
	    --grpc_python_out=generated --mypy_grpc_out=quiet:generated $(PROTOS)

torture: .venv/ready ## Kill servers and databases under load, and check every promise (ARGS="--kills 500")
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.torture $(ARGS)

bench-quick: .venv/ready ## Compare Signalbox with what cannot be avoided, in under two minutes
	@$(BIN)/python -m bench.quick

bench-rest: .venv/ready ## Compare the REST bridge with an echo and with a service written by hand
	@$(BIN)/python -m bench.rest

bench-automations: .venv/ready ## Compare sending among 10,000 automations with sending among 10
	@$(BIN)/python -m bench.automations

mutants: .venv/ready ## Put small faults into a sample of the code and name those that no focused test notices
	@$(BIN)/python -m tests.mutants

clean: ## Remove the environment and everything built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
