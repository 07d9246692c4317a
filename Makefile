# Two commands set up what they need and run: `make demo` and `make test`.
PYTHON ?= python3
STAMP := .venv/.ready-$(shell sha256sum pyproject.toml | cut -c1-16)
BIN := .venv/bin

.PHONY: demo test lint docs figures mutants chromium clean

demo: $(STAMP)
	$(BIN)/freeret demo --out out

test: $(STAMP) lint chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The demo's page is looked at in a real browser.
chromium:
	@command -v chromium || command -v google-chrome || \
	  (apt-get update -qq && apt-get install -y -qq chromium) || \
	  (echo "install Chromium: a test opens the demo's page in it"; exit 1)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# torch and torchvision first and together: a mismatched pair does not import.
$(STAMP):
	@echo "Installing into .venv: 3 to 7 minutes, about 8 GB"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --config-settings editable_mode=compat
	rm -f .venv/.ready-*
	touch $@

# The site, in site/. A broken link or anchor is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

figures: $(STAMP)
	for script in figures/*.py; do $(BIN)/python $$script || exit 1; done

# Small mistakes planted in the core modules, one at a time: an hour or more, and no part of the tests.
mutants: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py

clean:
	rm -rf .venv out site
