# Every target sets up .venv by itself; once that is up to date it costs nothing.
#   PYTHON       the interpreter to build .venv with (3.11 or later)
#   TORCH_INDEX  package index for torch alone, e.g. the one with CPU builds; otherwise as pip is configured
#   TORCH_LOCK   set to 1: torch's public build for CUDA, checked against requirements/torch.lock
#   WORKERS      processes that run tests

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
TORCH_LOCK ?=
WORKERS ?= logical

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := -m pip --disable-pip-version-check install --quiet
LOCKED := $(PIP) --no-deps --require-hashes -r requirements
# pip-tools, the writer of the SBOM and pip-audit keep out of the program's environment, which they describe.
TOOLS := $(VENV)/tools
TOOLS_STAMP := $(TOOLS)/.stamp

.PHONY: help setup demo test check lint types wheel bundled docker-check lock licences sbom audit clean
.NOTPARALLEL:

help:
	@echo "make demo     sample an exam from examples/report.txt into demo/"
	@echo "make test     run the tests"
	@echo "make check    lint, types, tests and the wheel's contents"
	@echo "make wheel    build dist/ccella-*.whl"
	@echo "make bundled  train the bundled model again"
	@echo "make docker-check  build the container image and try it (BASE_IMAGE, BUILD_FLAGS)"
	@echo "make licences  write docs/licences.md; make sbom  write dist/ccella.cdx.json; make audit  look for known weaknesses"
	@echo "make lock     resolve requirements/*.lock again, after a change of pyproject.toml or constraints.txt"
	@echo "make setup    only make .venv; make clean removes what was built"

setup: $(STAMP)

# Everything is checked against its SHA-256 but torch, of which there are several builds; see TORCH_LOCK.
$(STAMP): pyproject.toml constraints.txt requirements/dev.lock
	@test -n "$(PYTHON)" || { echo "error: no python3 found; set PYTHON to Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(LOCKED)/dev.lock
	@$(if $(TORCH_LOCK),$(BIN)/python $(LOCKED)/torch.lock)
	@$(BIN)/python $(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS_STAMP): $(STAMP) requirements/tools.lock
	@test -x $(TOOLS)/bin/python || $(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(LOCKED)/tools.lock
	@touch $@

demo: $(STAMP)
	@$(BIN)/ccella sample --prompt examples/report.txt -o demo --overwrite

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8

check: lint types test

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

# The checkout may have any name: mypy finds the package through a link that carries the right one.
types: $(STAMP)
	@mkdir -p .typing && ln -sfn .. .typing/ccella
	@MYPYPATH=.typing $(BIN)/mypy -p ccella

# build/ would carry modules over that have since been removed.
wheel: $(STAMP)
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

bundled: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bench/train_bundled.sh

docker-check: $(STAMP)
	@bench/container.sh

lock: $(TOOLS_STAMP)
	@$(BIN)/python bench/locks.py --pip-compile $(TOOLS)/bin/pip-compile

licences: $(STAMP)
	@$(BIN)/python bench/licences.py

sbom: $(TOOLS_STAMP)
	@mkdir -p dist
	@$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		--of JSON -o dist/ccella.cdx.json $(BIN)/python
	@echo dist/ccella.cdx.json

# Asks a public database, so the answer changes from day to day: no part of `make check`. What could not be asked about
# is a failure, not a pass.
audit: $(TOOLS_STAMP)
	@$(TOOLS)/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
		-r requirements/dev.lock -r requirements/train.lock -r requirements/gpu.lock -r requirements/torch.lock

clean:
	@rm -rf build dist demo *.egg-info .typing .pytest_cache .mypy_cache .ruff_cache .hypothesis
