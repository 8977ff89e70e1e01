# make venv   the environment alone
# make demo   the main job: train, fuse, judge and register an ensemble on scikit-learn's digits
# make bench  fuseline beside its peers, on this machine: about an hour on two cores
# make test   everything that CI checks: linter, types, import contracts, tests
# make test-gpu   what only a machine with a CUDA device can check
# make lock   requirements.lock: the tested set with the sha256 of every file
# make release   the wheel, its bill of materials (CycloneDX), and known vulnerabilities of what it needs
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv peers demo bench test test-gpu lint lock release clean

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
	$(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder

test-gpu: venv
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device here")'
	$(BIN)/python -m pytest -m gpu tests

lock: venv
	$(BIN)/python tools/lock.py

.venv-release/ready:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check build cyclonedx-bom pip-audit
	touch $@

# What is known of vulnerabilities comes from PyPI's own interface, which a mirror may lack: a package not found there is an error.
release: .venv-release/ready requirements.lock
	.venv-release/bin/python -m build --wheel --outdir dist
	.venv-release/bin/cyclonedx-py requirements requirements.lock --output-format JSON --output-file dist/sbom.json
	.venv-release/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

clean:
	rm -rf .venv .venv-peers .venv-release .fuseline dist
