# The commands that stay stable. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install server demo test test-all check clean

# The stamp is newer than what it was made from, so a second `make` does nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Imagine Bot needs Python 3.11 or newer; call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@

install: $(VENV)/.installed

# What a server needs and no more, each file by its hash. With TORCH=own another build of torch, which
# is in $(VENV) already, is left as it is, and the libraries of CUDA are left out.
TORCH ?= cuda
LEAVE_OUT := $(if $(filter own,$(TORCH)),^(torch|triton|cuda-|nvidia-),^$$)

server:
	$(PYTHON) -m venv $(VENV)
	awk '/^[a-z]/ {skip = ($$0 ~ /$(LEAVE_OUT)/)} !skip' requirements.txt > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .

demo: install
	$(BIN)/imagine-bot demo

# Each process loads torch once, and computes on one thread.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not rare"

# With the slow tests of what seldom changes: the bundled model, its training, the benchmark.
test-all: install
	$(PYTEST)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
