# Everything a person needs; `make help` explains. The first target that needs Python installs it into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK ?= work
# Keep Prefect's database beside the project, not in the home directory.
export PREFECT_HOME ?= $(CURDIR)/.prefect

.DEFAULT_GOAL := help
.PHONY: help demo demo-real server status test drills test-remote bench lint format lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## Simulated archive → dataset → trained ConvEntion → report/index.html, in about 3 minutes
	$(BIN)/s82 demo --root $(WORK)/demo

demo-real: $(VENV)/.installed  ## The same pipeline on real SDSS files: S82_REAL_DATA, else ../shared/sdss
	$(BIN)/s82 demo-real --root $(WORK)/demo-real

server: $(VENV)/.installed  ## Prefect's server and pages on 127.0.0.1:4200 with a worker per pool, until Ctrl-C; then: prefect deploy --all
	$(BIN)/s82 server start --root $(WORK)

status: $(VENV)/.installed  ## Server, workers, last runs, datasets, scores; fails if something needs a person
	@$(BIN)/s82 status --root $(WORK)

test: $(VENV)/.installed  ## The whole test suite
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

drills: $(VENV)/.installed  ## Servers, workers and databases as processes, killed in mid-build; PostgreSQL and Redis must be installed
	$(BIN)/pytest -n 3 --dist loadfile -m 'drill and not slow' --durations=10 -rs

test-remote: $(VENV)/.installed  ## Whether the real SDSS servers are as this software takes them to be, in a minute
	$(BIN)/pytest tests/remote -m remote_data --tb=line --durations=0

bench: $(VENV)/.installed  ## Measure every claim about speed and accuracy; each script prints its table (BENCH=--quick: under a minute each)
	@for script in benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script $(BENCH) || exit 1; done

lint: $(VENV)/.installed  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## Let ruff tidy the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## Resolve the newest versions that pyproject.toml admits into constraints.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:  ## Remove what the demos made
	rm -rf $(WORK) .prefect
