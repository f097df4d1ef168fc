# Everything runs in .venv, which is made from the lock file by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
WORKERS := --numprocesses 4 --dist worksteal
SIZES := 10000 100000 1000000
ON_FILES := idle served changed first judged detection stuck hanging memory cpu load start tune

.DEFAULT_GOAL := help
.PHONY: help setup demo dist check format tools test coverage soak unit lock bench simulate clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit("opencode-watchdog needs Python 3.11 or later; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	@echo "preparing $(VENV) from the lock file (once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

$(BENCH_READY): requirements-bench.lock $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-bench.lock
	@touch $(BENCH_READY)

setup: $(READY) ## make .venv, with the program in it

demo: $(READY) ## the main job on an embedded default: no opencode, no node
	@$(BIN)/opencode-watchdog demo

dist: $(READY) ## a wheel and an sdist in dist/
	$(BIN)/python -m hatchling build

check: $(READY) ## format, lint, the rooms' imports, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/mypy docs/examples/server.py

format: $(READY) ## write the format, fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tools: $(READY)
	@$(BIN)/python -m tests.support.binaries
	@$(BIN)/python -m tests.support.debian
	@$(BIN)/python -m tests.support.oldest_postgres

test: tools ## every test, on real opencode servers too (the binaries come from npm, once)
	$(BIN)/pytest $(WORKERS) --cache-clear --durations 25 || $(BIN)/python -m tests.support.second_hearing $$?

coverage: tools ## the same, with every branch counted: it takes nearly twice as long
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(WORKERS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(READY) ## an hour of faults beside a churning server (SOAK_SECONDS, SOAK_SEED)
	@$(BIN)/python -m tests.support.binaries
	SOAK_SECONDS=$${SOAK_SECONDS:-3600} $(BIN)/pytest tests/soak

unit: $(READY) ## the tests that need no opencode (ROOM=judging: those of one room)
	$(BIN)/pytest -m "not e2e" $(if $(ROOM),tests/unit/$(ROOM))

lock: ## resolve the dependencies anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra notify --extra postgres pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--constraint requirements-dev.lock --extra bench pyproject.toml -o requirements-bench.lock

bench: $(BENCH_READY) ## what watching costs, on databases of up to a million parts (PARTS=5000000 adds one)
	$(BIN)/python -m benchmarks $(ON_FILES) $(addprefix --parts ,$(SIZES) $(PARTS)) \
		--results benchmarks/results --page docs/performance.md --page README.md
	$(BIN)/python -m benchmarks postgres leader crowd $(addprefix --parts ,$(SIZES) $(PARTS)) \
		--results benchmarks/results/postgres --page docs/scaling.md

simulate: $(READY) ## a minute of simulated worlds (YEARS=, SEED=, KEEP= go further); MUTANTS=1 plants bugs in it
	@$(BIN)/python -m simulation $(if $(MUTANTS),--mutants) $(if $(YEARS),--years $(YEARS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(KEEP),--keep $(KEEP))

clean: ## remove what make made
	rm -rf $(VENV) .opencode-binaries .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
