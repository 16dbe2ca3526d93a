# Every target sets itself up: on a fresh machine `make test` creates .venv, installs, and runs.
VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready
LOWEST := .venv-lowest

.PHONY: setup demo test test-all docs test-numeric test-portable test-lowest lint format

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

setup: $(READY)

demo: $(READY)
	$(BIN)/everclip demo

FAST := $(BIN)/python -m pytest -q -m "not slow" -n auto --dist loadfile

test: $(READY)
	$(FAST)

test-all: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadfile
	$(MAKE) docs

# The site, with its examples executed: build/docs/index.html. A warning is an error.
$(VENV)/.docs-ready: pyproject.toml $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

docs: $(VENV)/.docs-ready
	rm -rf build/docs docs/examples
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

# What computes with floats. The kernels of older processors round otherwise than the newest one's, and no test may care.
NUMERIC := $(addprefix tests/,backbone engine functional layers learner methods selectors)

test-numeric: $(READY)
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(FAST) $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 $(FAST) $(NUMERIC)

test-portable: $(READY)
	EVERCLIP_TEST_THREADS=1 $(FAST)
	EVERCLIP_TEST_THREADS=2 $(FAST)
	EVERCLIP_TEST_THREADS=1 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(FAST)
	EVERCLIP_TEST_THREADS=2 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(FAST)
	EVERCLIP_TEST_THREADS=1 ATEN_CPU_CAPABILITY=avx2 $(FAST)
	EVERCLIP_TEST_THREADS=2 ATEN_CPU_CAPABILITY=avx2 $(FAST)

# The lowest versions that pyproject.toml admits for this Python, in an environment of their own (about 6 GB on Linux).
$(LOWEST)/.ready: pyproject.toml $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --only-binary :all: \
		--no-binary everclip --editable ".[dev,siglip,trackers]"
	touch $@

test-lowest: $(LOWEST)/.ready
	EVERCLIP_LOWEST=1 $(BIN:$(VENV)%=$(LOWEST)%)/python -m pytest -q -m "not slow" -n auto --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
