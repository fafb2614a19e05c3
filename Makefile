PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs
GATE := .venv/.gate

.PHONY: help setup lint types unit test test-fast test-long test-gate wheel wheel-test docs sanitize cross demo clean

help:
	@echo "make setup       create .venv and install qsample (editable) with what tests and experiments need"
	@echo "make test        lint, format check, type check, tests (make lint, make types, make unit: each alone)"
	@echo "make test-fast   the inner loop, within a minute: problems, contract, models, samplers, gradients; it leaves out"
	@echo "                 kernels, judges, training, diffusion, neural energies, D-Wave, command line, pages, lint, types"
	@echo "make test-long   the calibrations and attacks that take longer: false-alarm rates, power, coverage"
	@echo "make test-gate   the gate kits, PennyLane, Qiskit and Cirq: installs them (400 MB) and runs their tests"
	@echo "make docs        the documentation in build/site, strict: a warning or a broken link is an error"
	@echo "make wheel       the source distribution and the wheel, in dist"
	@echo "make wheel-test  builds both, looks at their files, installs the wheel into an empty environment and runs it"
	@echo "make sanitize    the native kernels over fuzzed problems, watched for bad addresses and undefined behaviour"
	@echo "make cross       the native kernels of ARM and AVX-512 under emulation: they compute what they compute here"
	@echo "make demo        train a small model and write its report under runs/demo"
	@echo "make clean       remove .venv, build outputs and caches"

setup: $(STAMP)

# An editable install compiles once: the native sources are listed so that an edit builds again.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard annealers/native/*.cpp annealers/native/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,dev,experiments,dwave,diffusion,rl]"
	touch $@

# What the documentation is built with comes with `make docs` alone: qsample itself is installed already.
$(DOCS): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt "qsample-torch[docs]"
	touch $@

# The gate kits are 400 MB more: they come with `make test-gate` alone.
$(GATE): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt "qsample-torch[pennylane,qiskit,cirq]"
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
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=10 -m "not long"

# What a change of the library breaks first: problems, the contract, models, samplers' own files, the house's rules.
FAST := $(addprefix tests/,problem sampling house/test_floors.py house/test_tests.py) \
	$(wildcard tests/models/test_*.py tests/annealers/test_*.py) \
	$(addprefix tests/learning/,test_contrastive.py test_gradient.py)

test-fast: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not long and not slow" $(FAST)

test-long: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m long

test-gate: $(GATE)
	$(BIN)/python -m pytest -m "not long" tests/annealers/gate

docs: $(DOCS)
	$(BIN)/python .ci/docs.py gallery
	$(BIN)/zensical build --strict --clean
	$(BIN)/python .ci/docs.py finish

wheel: setup
	$(BIN)/python -m build --no-isolation --outdir dist

# The environment is empty but for the wheel; what the wheel depends on is borrowed from .venv, not downloaded again
# (QSAMPLE_WHEEL_TEST=download has pip install it, as CI does).
wheel-test: setup
	$(BIN)/python -m pytest tests/test_package.py

# The kernels' check alone, without Python: annealers/native/check.
CHECK := $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DQSAMPLE_CHECK=ON

sanitize: setup
	$(CHECK) -B build/sanitize -DQSAMPLE_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	build/sanitize/check

# Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user libsimde-dev
ARM := -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	-DCMAKE_EXE_LINKER_FLAGS=-static
cross: setup
	$(CHECK) -B build/check
	$(CHECK) -B build/simde -DQSAMPLE_SIMDE=ON -DQSAMPLE_OPTIMIZE=-O1
	$(CHECK) -B build/arm $(ARM)
	for build in check simde arm; do $(BIN)/cmake --build build/$$build || exit 1; done
	build/check/check fuzz 30 > build/check/digests
	build/simde/check fuzz 30 > build/simde/digests
	qemu-aarch64 build/arm/check fuzz 30 > build/arm/digests
	diff build/check/digests build/simde/digests
	diff build/check/digests build/arm/digests
	build/simde/check bound 6
	build/simde/check equal 1e6
	qemu-aarch64 build/arm/check bound
	qemu-aarch64 build/arm/check equal 3e6
	qemu-aarch64 build/arm/check planted

demo: setup
	rm -rf runs/demo
	$(BIN)/python experiments/train_rbm.py --out runs/demo

clean:
	rm -rf .venv build dist docs/results wheelhouse .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
