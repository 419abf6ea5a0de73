# The two commands of the README. Everything is installed into .venv, from the versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VIEWER := node_modules/.package-lock.json

.PHONY: setup viewer demo bench test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# The viewer of the HTML report; where npm is missing, the report says so and shows pictures.
viewer: $(VIEWER)

$(VIEWER): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund

demo: setup $(if $(shell command -v npm),viewer)
	$(BIN)/python -m segkit_benchmarks.demo --out out/demo

# The thesis' Table 1 in its quick form: half the sides of large patches, fewer runs.
bench: setup
	$(BIN)/segkit bench table1 --quick --overwrite --out out/table1

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A worker that dies ends the run: one that took its place would wait for ever.
test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0

clean:
	rm -rf $(VENV) node_modules out build dist *.egg-info
