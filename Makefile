PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup lint types unit test test-long wheel-test sanitize demo clean

help:
	@echo "make setup   create .venv and install qsample (editable) with what tests and experiments need"
	@echo "make test    lint, format check, type check, tests (make lint, make types, make unit: each alone)"
	@echo "make test-long  the calibrations and attacks that take longer: false-alarm rates, power, coverage"
	@echo "make wheel-test  builds the source distribution and the wheel, looks at their files and imports from them"
	@echo "make sanitize  the native kernels over fuzzed problems, watched for bad addresses and undefined behaviour"
	@echo "make demo    train a small model and write its report under runs/demo"
	@echo "make clean   remove .venv, build outputs and caches"

setup: $(STAMP)

# An editable install compiles once: the native sources are listed so that an edit builds again.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard annealers/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,dev,experiments,dwave,diffusion]"
	touch $@

# The type checker runs beside the tests: together they keep two cores busy.
test: setup
	$(MAKE) --jobs 2 lint types unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/basedpyright

unit: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not long"

test-long: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m long

wheel-test: setup
	$(BIN)/python -m pytest tests/test_package.py

sanitize: setup
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DQSAMPLE_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	build/sanitize/check

demo: setup
	rm -rf runs/demo
	$(BIN)/python experiments/train_rbm.py --out runs/demo

clean:
	rm -rf .venv build dist wheelhouse .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
