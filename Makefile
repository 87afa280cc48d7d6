# make demo   build the environment and run the whole loop on the embedded sample
# make test   build the environment and run the tests
# make check  lint, formatting of imports, and types
# make gpu    the same environment with a CUDA build of PyTorch
#
# TORCH names the build. The default is the CPU build; where the package index serves a CUDA build under that version, add the CPU index:
#   make demo PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_EXTRA ?=
PROCESSES ?= 2
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test check gpu wheel clean

demo: $(READY)
	$(BIN)/assay demo

test: $(READY)
	$(BIN)/assay models pull minilm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_EXTRA) "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(PIP_EXTRA) --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

gpu:
	$(MAKE) $(READY) TORCH="torch>=2.9"

wheel: $(READY)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) dist runs
