# make venv   the environment alone
# make demo   the main job: train, fuse, judge and register an ensemble on scikit-learn's digits
# make bench  fuseline beside its peers, on this machine: about an hour on two cores
# make test   everything that CI checks: linter, types, import contracts, tests
# make test-gpu   what only a machine with a CUDA device can check
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv peers demo bench test test-gpu lint clean

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/fuseline run recipes/digits.yaml

peers: .venv-peers/ready

# The peers' environment looks into ours for what it does not have itself: one torch, NumPy and scikit-learn for both sides.
.venv-peers/ready: benchmarks/peers.txt | .venv/ready
	$(PYTHON) -m venv .venv-peers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	touch $@

bench: venv peers
	$(BIN)/python benchmarks/bench.py --document docs/performance.md

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-gpu: venv
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device here")'
	$(BIN)/python -m pytest -m gpu tests

clean:
	rm -rf .venv .venv-peers .fuseline
