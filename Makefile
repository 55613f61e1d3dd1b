# Two commands matter: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench docs notices clean

demo: $(VENV)/.installed
	$(BIN)/microtome demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto -m "not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs benchmarks examples README.md CONTRIBUTING.md CHANGELOG.md

# All benchmarks, one after the other; one that fails does not keep the others from running. 20 to 30 minutes on an
# idle machine; `make bench QUICK=--quick` only shows that they work. The figures go to docs/performance.md.
BENCHMARKS := $(filter-out benchmarks/harness.py benchmarks/inputs.py benchmarks/gpu_check.py,$(sort $(wildcard benchmarks/*.py)))
bench: $(VENV)/.installed-dev
	failed=""; for file in $(BENCHMARKS); do $(BIN)/python $$file $(QUICK) || failed="$$failed $$file"; done; \
		$(BIN)/python docs/write_performance.py; \
		if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W -q docs docs/_build

# The licences of everything that a plain installation brings, read from the installed packages.
notices: $(VENV)/.installed-dev
	rm -rf .venv-notices
	$(PYTHON) -m venv .venv-notices
	.venv-notices/bin/pip install --quiet .
	$(BIN)/pip-licenses --python .venv-notices/bin/python --format markdown --with-urls --ignore-packages microtome pip setuptools \
		| cat docs/notices_head.md - > THIRD_PARTY_NOTICES.md
	rm -rf .venv-notices

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) .venv-notices build dist demo out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache docs/_build
