# The two commands of the README, `make demo` and `make test`, set up what they need themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint audit docs package faults clean

setup: $(VENV)/.installed

# References of the parity tests go in without their own lists of dependencies: staintools asks for
# spams, which has no wheel (spams-bin provides the module); torchmil asks for plotting and data sets.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev,demo,docs]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--constraint constraints.txt staintools spams-bin torchmil einops tensordict pyvers
	$(BIN)/python -m compileall -q wsi_pipeline  # as installers do, but for an editable package
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

# The site, with every link and anchor looked at; `python -m http.server -d build/site` shows it.
docs: setup
	$(BIN)/mkdocs build --strict --quiet

# The wheel as a stranger gets it: built, looked at, all extras resolved together, and the whole demo
# run by it in an empty environment.
package: setup
	rm -rf dist build/stranger build/demo
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv build/stranger
	build/stranger/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt "$$(ls dist/*.whl)[demo]"
	build/stranger/bin/python -m pip install --quiet --disable-pip-version-check --dry-run \
		--constraint constraints.txt "$$(ls dist/*.whl)[all]"
	cd build && stranger/bin/wsi demo demo --workers 2

# A thousand corruptions of a run folder, and whether verify finds each; then kill -9, signals, full
# and failing disks at every verb that writes, and whether the same call mends all. Each ten to
# fifteen minutes on two cores. The second needs a C compiler, and root for its real file systems.
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/corruption.py docs/reliability.md
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py docs/reliability.md

clean:
	rm -rf $(VENV) demo build dist
