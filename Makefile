# Every target sets up .venv by itself; once that is up to date it costs nothing.
#   PYTHON       the interpreter to build .venv with (3.11 or later)
#   TORCH_INDEX  package index for torch alone, e.g. the one with CPU builds; the default index otherwise
#   WORKERS      processes that run tests

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
WORKERS ?= logical

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help setup demo test check lint types wheel bundled docker-check clean
.NOTPARALLEL:

help:
	@echo "make demo     sample an exam from examples/report.txt into demo/"
	@echo "make test     run the tests"
	@echo "make check    lint, types, tests and the wheel's contents"
	@echo "make wheel    build dist/ccella-*.whl"
	@echo "make bundled  train the bundled model again"
	@echo "make docker-check  build the container image and try it (BASE_IMAGE, BUILD_FLAGS)"
	@echo "make setup    only make .venv; make clean removes what was built"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3 found; set PYTHON to Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(PIP) -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/ccella sample --prompt examples/report.txt -o demo --resume

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

clean:
	@rm -rf build dist demo *.egg-info .typing .pytest_cache .mypy_cache .ruff_cache .hypothesis
