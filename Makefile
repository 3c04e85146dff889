# A Python of 3.11 or newer that really starts: a version manager's shim may exist and not work.
PYTHON ?= $(firstword $(foreach python,python3 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test lint format clean

demo: $(VENV)/test
	$(BIN)/python scripts/demo.py

test: $(VENV)/test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build *.egg-info

# The installed extras, each stamped so that a second run installs nothing.
$(VENV)/test $(VENV)/dev: $(VENV)/%: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[$*]'
	touch $@

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed: install it, or name it with make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
