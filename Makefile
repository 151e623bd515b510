# `make demo` and `make test` do everything on a fresh machine with Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN_EXTRAS := beamline,edge,sim,tiled
DEMO_EXTRAS := $(RUN_EXTRAS),training,loop
DOCS_EXTRAS := $(DEMO_EXTRAS),docs
TEST_EXTRAS := $(DOCS_EXTRAS),dev
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
export PTYCHONN_DATA ?= $(wildcard ../shared/data)

.PHONY: demo shell test check soak docs constraints clean help

help:            ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed (what is pinned was tested with it); give it by: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[$(RUN_EXTRAS)]"
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[$(DEMO_EXTRAS)]"
	@touch $@ $(VENV)/.run

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[$(TEST_EXTRAS)]"
	@touch $@ $(VENV)/.run $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[$(DOCS_EXTRAS)]"
	@touch $@ $(VENV)/.run $(VENV)/.demo

demo: $(VENV)/.demo ## scan, live image, training, a better image: the loop in about 8 minutes; see demo_output/
	$(BIN)/bluesky-ptychonn demo --output demo_output

shell: $(VENV)/.run ## IPython on the simulated beamline: RE, devices, spiral_ptycho_scan, cat
	$(BIN)/bluesky-ptychonn shell

check: $(VENV)/.test ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

test: check         ## check, quick tests, system tests
	$(BIN)/python -m pytest -q -n 2 -m "not system and not soak"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "system and not soak" -p no:randomly

soak: $(VENV)/.test ## torture for SOAK_MINUTES (default 50), in random order
	$(BIN)/python tests/soak/run.py --minutes $${SOAK_MINUTES:-50}

docs: $(VENV)/.docs ## the documentation, warnings are errors; see docs/_build/html/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

constraints: $(VENV)/.test ## write constraints.txt from what is installed and tested
	$(BIN)/python -m pip --disable-pip-version-check freeze --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$$//; /^-e|@ /d' > constraints.txt

clean:           ## forget the environment and what the demo wrote
	rm -rf $(VENV) demo_output .beamline docs/_build
