# Two commands: `make demo` and `make test`. Both set up .venv by themselves and use it again when it is up to date.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint compile constraints install

install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: install
	$(BIN)/serm demo --workspace runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

compile: install
	$(BIN)/python -m pipelines.compile

# All that .venv holds, as exact pins (the local build tag of torch left out).
constraints: install
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu//' > constraints.txt
