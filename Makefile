# Everything a contributor types. Each target makes .venv when it is missing and installs again when a pyproject.toml changed;
# when nothing changed it starts no process but its own.

PYTHON  ?= python3
ARGS    ?=
VENV    := .venv
BIN     := $(VENV)/bin
MADE    := $(VENV)/.made
RUNTIME := $(VENV)/.runtime
DEMO    := $(VENV)/.demo
DEV     := $(VENV)/.dev
ML      := $(VENV)/.ml
KERNELS := $(VENV)/.kernels
PIP     := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
KERNEL_TESTS := $(BIN)/python -m pytest -q tests/unit/kernels tests/unit/runtime/test_jit.py tests/unit/server/resp/test_scan.py \
                tests/unit/server/dispatch/test_wave_effects.py tests/unit/server/dispatch/test_wave_plan.py

# pip compiles every file of every package, Python only those that are used, and keeps them: the faster way to a cold start.
# It needs Python to be allowed to keep them.
unexport PYTHONDONTWRITEBYTECODE

# Tests on all cores, a file to a worker, as some share a server or a store; then those that need the machine to
# themselves. pytest ends with 5 where it found no test, as one of the two does where ARGS names files.
PYTEST  := $(BIN)/python -m pytest
UNLESS_EMPTY := || test $$? -eq 5

# The version of torch whose build for CPUs is taken where pip finds one; a plain `pip install torch` may bring a build
# for GPUs of several GB.
TORCH ?= torch==2.13.0

.PHONY: serve quick test test-long lint bench demo docs ml clean kernel-modes
.DEFAULT_GOAL := serve

serve: $(KERNELS)
	@exec $(BIN)/pmkv serve $(ARGS)

quick: $(DEV) $(KERNELS)
	$(PYTEST) -q -n auto -m 'not (long or serial or slow)' tests/unit tests/contract tests/crash/test_quick.py $(ARGS)

test: lint kernel-modes
	$(PYTEST) -n auto --dist loadfile -m 'not (long or quick or serial)' --ignore=tests/test_tidy.py $(ARGS) $(UNLESS_EMPTY)
	$(PYTEST) -m 'serial and not long' $(ARGS) $(UNLESS_EMPTY)

test-long: lint
	$(PYTEST) -m long $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(PYTEST) -q tests/test_tidy.py

# Both at once, as each keeps one core busy.
kernel-modes: $(DEV) $(KERNELS)
	@NUMBA_DISABLE_JIT=1 $(KERNEL_TESTS) & plain=$$!; \
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/boundscheck $(KERNEL_TESTS); checked=$$?; \
	wait $$plain && exit $$checked

bench: $(DEV) $(KERNELS)
	$(BIN)/python -m bench $(ARGS)

demo: $(DEMO) $(KERNELS)
	$(BIN)/python examples/demo.py $(ARGS)

docs: $(DEV)
	$(BIN)/python -m pmkv_server.commands.reference > docs/COMMANDS.md.new
	mv docs/COMMANDS.md.new docs/COMMANDS.md

# torch, Feast and safetensors, for the tests and examples of the integrations: those skip, and say so, without them.
ml: $(ML)

clean:
	rm -rf $(VENV) build dist client/build client/dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf *.egg-info client/*.egg-info

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pmkv needs Python 3.11 or later; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml | $(MADE)
	$(PIP) -e .
	@touch $@

$(DEMO): $(RUNTIME) client/pyproject.toml
	$(PIP) -e '.[demo]' -e client
	@touch $@

$(DEV): $(RUNTIME) client/pyproject.toml
	$(PIP) -e '.[dev]' -e client
	@touch $@

$(ML): $(DEV)
	$(PIP) '$(TORCH)' 'feast>=0.67' safetensors
	@touch $@

# numba does not notice that a function compiled into another one changed, and would keep checked kernels where it keeps
# unchecked ones: so a changed kernel drops the whole cache, and the checked ones have a cache of their own.
$(KERNELS): $(RUNTIME) pmkv/runtime/jit.py $(wildcard pmkv/kernels/*.py) server/pmkv_server/resp/scan.py server/pmkv_server/resp/replies.py server/pmkv_server/resp/glob.py server/pmkv_server/net/transport.py server/pmkv_server/dispatch/wave_plan.py server/pmkv_server/dispatch/wave_effects.py
	@echo "Compiling the kernels (once, and again when one changes) ..."
	@rm -rf pmkv/kernels/__pycache__ server/pmkv_server/*/__pycache__ $(VENV)/boundscheck
	@$(BIN)/python -c 'import pmkv_server.server' & $(BIN)/python -m pmkv.kernels && wait $$!
	@touch $@
