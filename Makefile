# make venv   the environment alone
# make demo   the main job: train, fuse, judge and register an ensemble on scikit-learn's digits
# make test   everything that CI checks: linter, types, import contracts, tests
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv demo test lint clean

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/fuseline run recipes/digits.yaml

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

clean:
	rm -rf .venv .fuseline
