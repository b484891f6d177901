# Everything runs in a virtual environment; make, git and Python 3.11 are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo paper test test-slow test-long test-docker test-gpu faults lint bench lock clean

demo: $(READY)
	$(BIN)/python -m experiments.demo

# Each table of the experiments on synthetic films: every code path, no evidence.
paper: $(READY)
	$(BIN)/flower-experiments run table2 figure6 table1 bounds table3 strategies wires --scale smoke
	$(BIN)/flower-experiments report --scale smoke

# Four processes on two cores, and files in memory where it has room: tests wait for each other's processes and, on a
# disk, longer for fsync than for anything else.
SHM_KB := $(shell df --output=avail /dev/shm 2>/dev/null | tail -1)
test: $(READY)
	files=$$(mktemp -d $$([ "$(SHM_KB)" -gt 4000000 ] 2>/dev/null && echo "-p /dev/shm")) && trap 'rm -rf "$$files"' EXIT && \
	  TMPDIR="$$files" $(BIN)/python -m pytest -n 4 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-long: $(READY)
	$(BIN)/python -m pytest -m long

test-docker: $(READY)
	$(BIN)/python -m pytest -m docker tests/containers

test-gpu: $(READY)
	$(BIN)/python -m pytest tests/gpu

faults: $(READY)
	$(BIN)/python -m pytest -m fault --faults-table=docs/faults.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile.server Dockerfile.client
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml server/provision/kit/docker-compose.yml
	if docker compose version >/dev/null 2>&1; then \
	  docker compose config -q && docker compose -f docker-compose.yml -f docker-compose.gpu.yml config -q && \
	  IMAGE=fedcxr-client SIZE=256 image= size= docker compose --project-directory server/provision/kit config -q --no-env-resolution; \
	else echo "docker compose is not installed: its check of the files was NOT run"; fi

bench: $(READY)
	$(BIN)/python -m benchmarks.federation_overhead
	$(BIN)/python -m benchmarks.data_pipeline
	$(BIN)/python -m benchmarks.pretrain_speed
	$(BIN)/python -m benchmarks.client_speed
	$(BIN)/python -m benchmarks.server_memory

lock: $(READY)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,ray]'
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools > constraints.txt

clean:
	rm -rf $(VENV) demo

# The environment is made again when the requirements change.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
