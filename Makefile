# make demo   ask the bundled pictures        make test    the test suite
# make setup  everything a fresh clone needs  make check   format, lint, types
PYTHON ?= python3.11
BIN := .venv/bin
.PHONY: setup demo test check format

setup: .venv/.ready

.venv/.ready: requirements/lock.txt requirements/parts.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt -r requirements/parts.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	HF_HUB_OFFLINE=1 $(BIN)/llava-mini demo

test: setup
	HF_HUB_OFFLINE=1 $(BIN)/pytest --numprocesses auto --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
