# make demo   sets up .venv, trains on the embedded sample, predicts it, scores it, draws a preview
# make test   sets up .venv, then lint, types, import direction and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := $(VENV)/.int8

.PHONY: demo test coverage test-slow lint schema samples clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vol3d needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(QUICK): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	touch $@

demo: $(READY)
	rm -rf demo_run
	$(BIN)/vol3d train configs/demo.yaml -o demo_run --overwrite
	$(BIN)/vol3d predict data_samples/scan.nii.gz -m demo_run -o demo_run/scan_seg.nii.gz --overwrite
	$(BIN)/vol3d evaluate demo_run/scan_seg.nii.gz data_samples/scan_dense.nii.gz --except data_samples/scan_sparse.nii.gz
	@echo
	@echo "Look at demo_run/preview.png and demo_run/curves.png, then try your own scan:"
	@echo "  $(BIN)/vol3d check SCAN LABELS"
	@echo "  $(BIN)/vol3d train -i SCAN -l LABELS --unlabeled CODE --time-budget 10m"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint $(QUICK)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

coverage: $(QUICK)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --cov --cov-report=term:skip-covered

test-slow: $(QUICK)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n auto --dist loadfile --timeout 1800

schema: $(READY)
	$(BIN)/python -c 'import json; from vol3d.config import json_schema; print(json.dumps(json_schema(), indent=2))' \
		> configs/vol3d.schema.json

samples: $(READY)
	$(BIN)/python -m vol3d.workflows.samples data_samples

clean:
	rm -rf $(VENV) demo_run build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
