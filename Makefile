# make demo   pre-train, restore and evaluate on real photos, minutes on two CPU cores
# make test   the tests
# Both make the virtual environment that they need. PYTHON=python3.12 chooses the interpreter,
# EXTRAS=train,cuda12 installs JAX for NVIDIA GPUs, RUNS=DIR says where the demo writes.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' \
	2>/dev/null && echo $$p && break; done)
VENV ?= .venv
EXTRAS ?= train
RUNS ?= runs/demo
BIN := $(VENV)/bin
MAIN := $(BIN)/python -m dcpt_jax.main

# Compiled bytecode makes every later start seconds faster.
unexport PYTHONDONTWRITEBYTECODE

# On CPUs a step is about a tenth faster if its memory is in huge pages and is kept for the next
# step (docs/models.md). glibc reads this when a program starts.
demo: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.mmap_threshold=1099511627776
demo: export JAX_CPU_ENABLE_ASYNC_DISPATCH := false

.PHONY: demo test lint clean

demo: $(VENV)/ready
	$(MAIN) --config=configs/pretrain.py --workdir=$(RUNS)/pretrain
	$(MAIN) --config=configs/restore.py --workdir=$(RUNS)/restore \
		--config.init_from=$(RUNS)/pretrain
	$(MAIN) --config=configs/evaluate.py --workdir=$(RUNS)/evaluate \
		--config.init_from=$(RUNS)/restore
	@echo "Your own photo: $(BIN)/python -m dcpt_jax.restore PHOTO --output restored" \
		"--weights $(RUNS)/restore"
	@echo "With the bundled network, which is better: the same without --weights"

test: $(VENV)/ready-for-tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/ready: $(BIN)/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[$(EXTRAS)]" --constraint constraints.txt
	touch $@

$(VENV)/ready-for-tests: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[dev]" --constraint constraints.txt
	touch $@
