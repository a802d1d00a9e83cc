# Two commands do everything on a machine that has Python 3.11 or newer, pip and git: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install demo test check zoo towers slow mutants package fuzz drills crosscheck live bench benchmark tables docs clean

install: $(VENV)/.core  ## an environment in .venv with the command `ironclip`

demo: $(VENV)/.core  ## the main job on embedded defaults, with an HTML page at the end
	$(BIN)/ironclip demo

test: $(VENV)/.dev check  ## everything CI runs: linters, types, tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

zoo: $(VENV)/.dev  ## audits masked and honest classifiers at the default sizes; prints misses and false alarms (hours)
	PYTHONPATH=tests $(BIN)/python -m zoo

towers: $(VENV)/.dev  ## every method on every tower class of open_clip in miniature; resumable; the table of docs/backbones.md
	PYTHONPATH=tests $(BIN)/python -m towers

slow: $(VENV)/.dev  ## real data and long runs
	$(BIN)/pytest -m slow

mutants: $(VENV)/.dev  ## deliberate errors that the tests must notice, one at a time in a copy; resumable
	$(BIN)/python -m tests.mutants --workers $(WORKERS)

package: $(BIN)/uv  ## the wheel in a clean environment: verbs, demo, an example, fast tests out of the source archive; PART=quick: in 3 minutes
	rm -rf dist $(VENV)/package
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/uv venv --quiet --python $(BIN)/python $(VENV)/package
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(VENV)/package/bin/python --constraint constraints.txt \
	  dist/*.whl pytest hypothesis
	$(VENV)/package/bin/python -P tests/package.py $(CURDIR)/dist $(PART)

drills: $(VENV)/.dev  ## kill -9 at every write, full disks, 20,000 damaged runs, 5,000 odd requests, then `fuzz`; prints counts (some hours)
	PYTHONPATH=.:tests $(BIN)/python -m drills
	PYTHONPATH=tests $(BIN)/python -m fuzz

fuzz: $(VENV)/.dev  ## 2,000 random command lines and 10,000 damaged images: no traceback, no hang (half an hour)
	PYTHONPATH=tests $(BIN)/python -m fuzz

crosscheck: $(VENV)/.crosscheck  ## a trained classifier attacked unchanged by foolbox, ART and torchattacks, in an environment of its own
	$(VENV)/crosscheck/bin/python -m pytest -s tests/crosscheck

live: $(VENV)/.live  ## the service and the pages as others see them: schemathesis, Chromium (install it first), axe where npm is at hand
	if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --prefix $(VENV)/live axe-core; fi
	SCHEMATHESIS=$(CURDIR)/$(VENV)/live/bin/schemathesis AXE=$(CURDIR)/$(VENV)/live/node_modules/axe-core/axe.min.js \
	  $(VENV)/live/bin/python -m pytest -s -m slow tests/serve/test_interface.py tests/serve/test_page.py tests/report/test_looks.py

bench: $(VENV)/.dev  ## ratios against plain references, equality asserted first
	$(BIN)/python -m benchmarks

GRIDS := prompts representation testtime-adaptive testtime-ablations generalisation
benchmark: $(VENV)/.core  ## docs/benchmarks.md from real images (IRONCLIP_DATA); some twenty hours of one core, resumable
	set -e; for grid in $(GRIDS); do \
	  $(BIN)/ironclip grid run grids/$$grid.yaml --workers $(WORKERS); \
	  $(BIN)/ironclip report runs/$$grid --matrix --html runs/$$grid.html --csv runs/$$grid.csv --figures runs/$$grid-figures; \
	done

tables: $(VENV)/.core  ## tables of the READMEs and of the weights' card anew from docs/results; other pages get theirs when the site is built
	PYTHONPATH=docs $(BIN)/python -m doc_tables

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# Debian's Python may lack ensurepip: then uv makes the environment, found on the path or brought by the pip that is there.
$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	if ! $(PYTHON) -m venv $(VENV) 2> /dev/null; then \
	  rm -rf $(VENV); \
	  if command -v uv > /dev/null; then uv venv --quiet --seed --python $(PYTHON) $(VENV); \
	  elif $(PYTHON) -m pip --version > /dev/null 2>&1; then \
	    $(PYTHON) -m pip install --quiet --target $(VENV)-uv uv && \
	    $(VENV)-uv/bin/uv venv --quiet --seed --python $(PYTHON) $(VENV) && rm -rf $(VENV)-uv; \
	  else echo "$(PYTHON) has neither ensurepip nor pip: install python3-venv, or uv" >&2; exit 2; fi; \
	fi
	$(BIN)/python -m pip install --quiet uv

# torch comes in its default PyPI build, through uv: a CPU-only wheel that plain pip may find does not fit torchvision.
$(VENV)/.core: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable .
	touch $@

# Compiled once: the tests start many processes, each of which would else compile torch again where Python writes no bytecode.
$(VENV)/.dev: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.docs: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[docs]"
	touch $@

# An environment of its own: ART and foolbox bring packages that nothing else here needs, and torchattacks, left to itself, old ones.
$(VENV)/.crosscheck: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/crosscheck
	$(BIN)/uv pip install --quiet --python $(VENV)/crosscheck/bin/python --constraint constraints.txt --editable ".[dev,crosscheck]"
	$(BIN)/uv pip install --quiet --python $(VENV)/crosscheck/bin/python --no-deps "torchattacks>=3.5"
	touch $@

$(VENV)/.live: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/live
	$(BIN)/uv pip install --quiet --python $(VENV)/live/bin/python --constraint constraints.txt --editable ".[dev,live]"
	touch $@

clean:
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .mypy_cache
