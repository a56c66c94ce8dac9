# Everything from a fresh clone: Python 3.11 or later, pip and make are enough.
#   make demo   audits the embedded networks and prints the run folder     make test    the fast suite
#   make check  style, types, docs, README                                 make help    all of them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# two processes of one thread each beat one process of two on small networks, and results must not depend on threads
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-slow check style types docs readme bench bench-noise bench-spectra bench-worst-case bench-robust-accuracy bench-cost-curves bench-efficientnet assets clean help
.DEFAULT_GOAL := help

help:
	@sed -n '2,3s/^# *//p' Makefile
	@echo "make test-slow, make docs, make bench, make bench-noise, make bench-spectra, make bench-worst-case, make bench-robust-accuracy, make bench-cost-curves, make bench-efficientnet, make assets, make clean"

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "brittle needs Python 3.11 or later; run make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch alone and exactly pinned comes first: a range would bring gigabytes of accelerator libraries
	$(BIN)/pip install --quiet --constraint constraints.txt $$(grep '^torch==' constraints.txt)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/brittle audit --demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'not slow and not assets'

test-slow: $(READY) assets
	$(BIN)/python -m pytest -m 'slow or assets' --timeout 3600

check: style types docs readme

style: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/basedpyright

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

readme: $(READY)
	$(BIN)/python scripts/check_readme.py README.md docs/index.md

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# estimators, then how much noise every bound certifies; make bench-noise QUICK= asks all inputs and seeds, and takes an hour
bench-noise: QUICK ?= --quick
bench-noise: $(READY)
	$(BIN)/python benchmarks/noise_estimators.py $(QUICK)
	$(BIN)/python benchmarks/noise.py $(QUICK)

# peers come from PEERS_PATH: a folder with foolbox, adv-lib, torchattacks; without it brittle alone is measured
bench-worst-case: $(READY)
	$(BIN)/python benchmarks/worst_case.py

bench-robust-accuracy: $(READY)
	$(BIN)/python benchmarks/robust_accuracy.py

# excess against passes, beside the peers that bench-worst-case has measured; processor time against width, depth, input size and batch
bench-cost-curves: $(READY)
	$(BIN)/python benchmarks/cost_curves.py

# EfficientNet-Lite0 on 20 ImageNet pictures: radii of all four norms and a certificate of the smoothed model; about 25 minutes
bench-efficientnet: $(READY) assets
	$(BIN)/python benchmarks/efficientnet.py

# one thread: OPENBLAS_NUM_THREADS is what the wheels of NumPy and SciPy obey
bench-spectra: QUICK ?= --quick
bench-spectra: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/spectra.py $(QUICK)

assets: $(READY)
	$(BIN)/python scripts/fetch_assets.py

clean:
	rm -rf build runs .pytest_cache .ruff_cache .hypothesis $(VENV)
