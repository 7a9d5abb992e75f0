# make demo     install, fit flows, train SPD networks and a Boltzmann generator, print the tables and draw the pictures
# make test     install, run the whole test suite
# make lint | doctest | docs | bench

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint format doctest docs bench clean

demo: $(INSTALLED)
	$(BIN)/python examples/density_estimation.py
	$(BIN)/python examples/spd_classification.py
	$(BIN)/python examples/tetrahedral_rotor.py --steps 600

# one process a core, each with one thread: the laws are many small tests
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doctest: $(INSTALLED)
	$(BIN)/python -m pytest --doctest-modules flowgroup

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(INSTALLED)
	$(BIN)/python -m pip install -q --no-deps -r requirements-bench.txt
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

# torch goes first, alone and with its exact pin: where a source of CPU-only builds is configured, pip takes that build,
# and nothing installed later can pull in a CUDA build of several gigabytes beside it.
$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("make needs Python 3.11 or newer for the pinned versions, got " \
	+ sys.version.split()[0] + "; choose another with: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf docs/_build docs/api/generated output .pytest_cache .ruff_cache
