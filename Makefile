PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --no-compile -c constraints.txt

# pip compiles nothing, so Python must be free to: importing torch takes twice as long without bytecode.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-host host-named lint bench

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.dev  ## prepare .venv with everything that development needs

demo: $(VENV)/.demo  ## train a ControlNet on the small base and draw with it, on the CPU
	$(BIN)/controlnet-core demo

test: $(VENV)/.dev  ## run the tests: CHROMIUM names a browser that is not found by itself, CHROMIUM= goes without
	@$(BIN)/python -m tools.browser
	$(BIN)/pytest

test-host: host-named $(VENV)/.host  ## run the tests in a real ComfyUI: COMFYUI_PATH its checkout, COMFYUI_PYTHON its interpreter
	@$(COMFYUI_PYTHON) -P tools/host_tests.py $(TESTS)

host-named:
	@test -d "$(COMFYUI_PATH)/comfy" || { echo "COMFYUI_PATH must name a checkout of ComfyUI"; exit 2; }
	@test -x "$$(command -v "$(COMFYUI_PYTHON)")" || { echo "COMFYUI_PYTHON must name the Python that runs it"; exit 2; }

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check
	$(BIN)/mypy
	@mkdir -p $(VENV)/extension && ln -sfn ../.. $(VENV)/extension/controlnet_extension
	MYPYPATH=$(VENV)/extension $(BIN)/mypy -p controlnet_extension.nodes

bench: $(VENV)/.dev  ## time a training step
	$(BIN)/python benchmarks/train_step.py

# A stamp is written when its step is complete; without it the step is run again. A .venv that lacks a working pip is made afresh.
$(VENV)/.base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing torch into $(VENV)"
	@$(INSTALL) torch setuptools
	@touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	@echo "installing controlnet-core into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[hints]'
	@touch $@

# pytest for ComfyUI's interpreter, beside it: nothing is installed into what belongs to ComfyUI.
$(VENV)/.host: constraints.txt | host-named
	@mkdir -p $(VENV)
	@$(COMFYUI_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/host \
		$$(grep -E '^(pytest|pluggy|iniconfig|packaging|Pygments)==' constraints.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml
	@echo "installing controlnet-core and the development tools into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@
