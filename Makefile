# offhost: every target sets up what it needs first, and does nothing when nothing changed.
SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help setup simulator demo test test-fast faults check bench bench-index bench-metadata bench-points format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install all it needs: Debian packages (when allowed), .venv with offhost and the development tools
	@deploy/setup.sh

simulator: setup ## build the simulated vCenter of the tests
	@ls .cache/vsim/vsim-* >/dev/null 2>&1 || echo "building the simulated vCenter, a minute or two, once"
	@PYTHONPATH=tests $(BIN)/python -c "from support.vcenter import build; build()"

demo: simulator ## a simulated vCenter with a running VM: backed up, changed, backed up again, restored, compared
	@PYTHONPATH=tests $(BIN)/python -m demo.run

test: simulator ## all tests
	@$(BIN)/pytest -m "not slow" -n auto
	@$(BIN)/pytest -m slow

test-fast: simulator ## the tests that take seconds
	@$(BIN)/pytest -m "not slow" --hypothesis-profile=quick -n auto

faults: simulator ## the long campaign of faults: every call, byte and state, and KILLS=n kills of each command
	@OFFHOST_FAULTS=long OFFHOST_KILLS=$(or $(KILLS),50) OFFHOST_FAULTS_REPORT=tests/faults/RESULTS.md \
	    $(BIN)/pytest tests/faults tests/integration/end_to_end/test_killed.py \
	    tests/unit/repository/test_collector_model.py tests/integration/repository/test_collection_interleaved.py

check: setup ## formatting, lint, types, layers: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter

bench: setup ## speed, size and memory beside borg and restic; CORPUS=folder of A.raw B.raw A2.raw, ROUNDS=n
	@mkdir -p .cache/bench
	@PYTHONPATH=tests $(BIN)/python -m bench.run --cache .cache/bench --report tests/bench/RESULTS.md \
	    $(if $(CORPUS),--corpus $(CORPUS)) --rounds $(or $(ROUNDS),1)

bench-metadata: setup ## what an incremental of a large disk costs in metadata; DAYS=n
	@PYTHONPATH=tests $(BIN)/python -m bench.metadata $(if $(DAYS),--days $(DAYS))

bench-points: setup ## whether the last of 1000 restore points opens as fast as the first
	@PYTHONPATH=tests $(BIN)/python -m bench.many_points

bench-index: setup ## an index of 16 million chunks: opening, look-ups, memory; ENTRIES=n
	@PYTHONPATH=tests $(BIN)/python -m bench.index_at_size --work .cache/bench/index --entries $(or $(ENTRIES),16000000)

format: setup ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## take the newest Python packages: writes deploy/constraints.txt
	@deploy/lock.sh

clean: ## remove .venv and everything built or cached
	rm -rf $(VENV) .cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
