# One door to everything; each target sets up what it needs. `make` lists them.

SYMBOL ?= SP500
TIMEFRAME ?= 1d
PROFILE ?= smoke
SEED ?= 7
WORKERS ?= 2
BIN := .venv/bin

# Set before a kernel starts, which inherits it. Two threads is also what mlkit itself asks for.
export OMP_NUM_THREADS := 2
export OPENBLAS_NUM_THREADS := 2
export MKL_NUM_THREADS := 2
export NUMBA_NUM_THREADS := 2
# Waiting threads sleep: two test workers share the cores.
export OMP_WAIT_POLICY := PASSIVE
export PYTHONHASHSEED := 0
export CUBLAS_WORKSPACE_CONFIG := :4096:8
export JUPYTER_PREFER_ENV_PATH := 1
# Container images set it; without bytecode hundreds of processes compile the same imports again, and all takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup kernels report test lint format lab notebooks bench study certificates drift soak lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## Make or mend .venv with the pinned packages
	@PYTHON="$(PYTHON)" .ci/setup

# Compiled once here, not in two test workers at once, nor with a message in somebody's notebook.
kernels: setup
	@$(BIN)/python -c 'import mlkit; bars = mlkit.load_bars("SP500", "1d"); mlkit.build_features(bars); \
	    mlkit.pattern_labels(bars); mlkit.FeatureStream().push(1.0, 1.0, 1.0, 1.0, 0.0); \
	    mlkit.Predictor().pattern_probabilities(bars); \
	    from mlkit.models.bundle.inspection import warm_up; warm_up()'

report: kernels ## Run the notebooks into reports/ (SYMBOL, TIMEFRAME, PROFILE=smoke|full, SEED)
	$(BIN)/mlkit report --symbol "$(SYMBOL)" --timeframe "$(TIMEFRAME)" --profile "$(PROFILE)" --seed "$(SEED)"

# A worker takes whole files, those that run longest first (tests/conftest.py). One thread each, as two workers with two
# threads on two cores wait for one another; no number depends on it.
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: export MKL_NUM_THREADS := 1
test: export NUMBA_NUM_THREADS := 1
test: export MLKIT_N_THREADS := 1
test: setup ## Style, types, layers, unit tests and notebooks
	@$(MAKE) --no-print-directory -j $(WORKERS) --output-sync=target lint kernels
	$(BIN)/pytest notebooks tests --nbval --nbval-current-env -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup ## Style, types and layers only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## Rewrite code and notebooks in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: setup ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: kernels ## Run the committed notebooks again and rewrite them in place
	$(BIN)/python .ci/notebooks.py

bench: kernels ## Run the benchmarks in tests/bench
	@set -e; for file in tests/bench/bench_*.py; do echo "# $$file"; $(BIN)/python "$$file"; done

docs: setup ## Build the API reference from the docstrings into build/docs/
	$(BIN)/python .ci/docs.py

soak: kernels ## Run the long endurance checks in tests/bench (kills, floods, leaks)
	@set -e; for file in tests/bench/soak_*.py; do echo "# $$file"; $(BIN)/python "$$file"; done

certificates: kernels ## Is skill denied on markets without any, and found where it was planted? (minutes)
	$(BIN)/python tests/bench/certificates.py

drift: kernels ## How soon is a changed market flagged, and how often is there a false alarm? (an hour)
	$(BIN)/python tests/bench/drift_rates.py

study: kernels ## Judge the price ensemble on every file of ../shared/data/ohlcv into notebooks/study.csv
	$(BIN)/python tests/bench/study.py --workers "$(WORKERS)"

lock: setup ## Resolve the newest versions into constraints.txt and environment.yml
	$(BIN)/python .ci/lock.py

clean: ## Remove .venv and the caches; data/ and reports/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find mlkit tests notebooks .ci \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
