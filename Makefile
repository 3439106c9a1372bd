# The two commands of the README, `make demo` and `make test`, set up what they need themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint audit package faults clean

setup: $(VENV)/.installed

# References of the parity tests go in without their own lists of dependencies: staintools asks for
# spams, which has no wheel (spams-bin provides the module); torchmil asks for plotting and data sets.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev,demo]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--constraint constraints.txt staintools spams-bin torchmil einops tensordict pyvers
	touch $@

demo: setup
	$(BIN)/python -m wsi_pipeline.demo demo --workers 2

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive wsi_pipeline

# Advisories on every version that we test with; needs the network.
audit: setup
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# A thousand corruptions of a run folder, and whether verify finds each; then kill -9, signals, full
# and failing disks at every verb that writes, and whether the same call mends all. Each ten to
# fifteen minutes on two cores. The second needs a C compiler, and root for its real file systems.
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/corruption.py docs/reliability.md
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py docs/reliability.md

clean:
	rm -rf $(VENV) demo build dist
