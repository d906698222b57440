# make demo and make test do everything on a fresh machine with Python 3.11, 3.12 or 3.13.
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do \
  $$one -c '' 2> /dev/null && echo $$one && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo demo-clusters test test-busy coverage fuzz mutants lint docs bench release clean

setup: $(VENV)/.ready

# torch first: with it in place, nothing that needs torch brings another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Blindsum needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/blindsum run examples/solubility/job.yaml

# A coordinator and three companies on this machine, each with its own Ray.
demo-clusters: setup
	$(BIN)/python examples/clusters/demo.py

test: setup
	$(BIN)/python -m pytest

# The same suite with four busy processes beside it.
test-busy: setup
	@busy=; for i in 1 2 3 4; do nice -n 0 sh -c 'while :; do :; done' & busy="$$busy $$!"; done; \
	  trap "kill $$busy" EXIT; $(BIN)/python -m pytest

coverage: setup
	$(BIN)/python -m pytest --cov=blindsum --cov-report=json:build/coverage.json
	$(BIN)/python tests/coverage_by_room.py build/coverage.json

fuzz: setup
	BLINDSUM_FUZZ=5000 $(BIN)/python -m pytest -n 2 tests/fuzz

mutants: setup
	$(BIN)/python tests/mutants.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports --no-logo

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/startup.py --json build/startup.json
	$(BIN)/python benchmarks/rounds.py --json build/rounds.json
	$(BIN)/python benchmarks/clusters.py --json build/clusters.json
	$(BIN)/python benchmarks/dp_step.py --json build/dp_step.json
	$(BIN)/python benchmarks/utility.py --json build/utility.json --plot build/utility.svg
	$(BIN)/python benchmarks/dp_settings.py --json build/dp_settings.json
	$(BIN)/python benchmarks/averaging.py --json build/averaging.json
	$(BIN)/python benchmarks/overlap.py --json build/overlap.json
	$(BIN)/python benchmarks/survival.py --json build/survival.json
	$(BIN)/python benchmarks/calibration.py --json build/calibration.json
	$(BIN)/python benchmarks/audit.py --json build/audit.json
	$(BIN)/python benchmarks/recovery.py --json build/recovery.json
	$(BIN)/python benchmarks/soak.py --json build/soak.json --plot build/soak.svg
	$(BIN)/python benchmarks/sizing.py --json build/sizing.json
	$(BIN)/python benchmarks/many_silos.py --json build/many_silos.json
	$(BIN)/python benchmarks/prepare.py --json build/prepare.json
	$(BIN)/python benchmarks/ready.py --json build/ready.json
	$(BIN)/python benchmarks/tables.py --json build/tables.json
	$(BIN)/python benchmarks/workers.py --json build/workers.json
	$(BIN)/python benchmarks/trees.py --json build/trees.json
	$(BIN)/python benchmarks/encryption.py --json build/encryption.json
	$(BIN)/python benchmarks/encryption.py --scale --json build/scale.json --plot build/scale.svg

# Builds, checks, and tries the wheel on every Python at hand. Uploads nothing.
release: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	infra/release.sh $(CURDIR)/$(BIN)/python

clean:
	rm -rf $(VENV) build dist src/*.egg-info
