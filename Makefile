# The two commands are `make demo` and `make test`. Everything else is for those who change the engine.
SHELL := /bin/bash
PYTHON := .venv/bin/python
BUILD_JOBS ?= $(shell nproc)
# One compiler cache for all checkouts.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

.PHONY: help demo test install setup build-tests test-cpp test-python lint format \
        bench bench-kernels bench-hiding bench-silence bench-convergence soak asan tsan emulate-avx512 fuzz clean

help:  ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 19

demo: install  ## DDP against StellaTrain over 100 Mbps: live progress, a table, build/demo/loss.png (8 minutes)
	$(PYTHON) examples/demo.py

test: install build-tests test-cpp test-python  ## Everything that must hold, in a few minutes

setup:  ## System packages and the Python environment in .venv/
	@tools/setup.sh

install: setup  ## Builds the engine into .venv/
	@tools/install.sh

build-tests: setup
	@echo "stellatrain: building the C++ tests (build/dev)"
	@mkdir -p build
	@cmake --preset dev > build/dev-configure.log || { cat build/dev-configure.log; exit 1; }
	@cmake --build --preset dev -j $(BUILD_JOBS) -- --quiet

test-cpp: build-tests  ## C++ tests
	ctest --preset dev -j 2

test-python: install  ## Python tests
	$(PYTHON) -m pytest

lint: setup  ## Formatting and the docs' commands, as CI checks them
	tools/lint.sh

format: setup  ## Formats everything
	git ls-files '*.cpp' '*.hpp' | xargs .venv/bin/clang-format -i
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup  ## Kernels against plain loops (takes 6 GB of memory)
	@cmake --preset release > /dev/null && cmake --build --preset release -j $(BUILD_JOBS) -- --quiet
	build/release/bench/kernels/kernels_bench

# make exports what its command line sets, so the shell can quote it.
KERNEL_TABLE = $(PYTHON) -m bench.kernel_table \
	$${ROUNDS:+--rounds "$$ROUNDS"} $${DEEPSPEED:+--deepspeed "$$DEEPSPEED"}

bench-kernels: setup  ## Kernels against the memory bus and against torch, in one run (docs/benchmarks/kernels.md)
	@$(KERNEL_TABLE) --check
	@cmake --preset release > /dev/null && cmake --build --preset release -j $(BUILD_JOBS) --target kernels_bench -- --quiet
	$(KERNEL_TABLE)

bench-hiding: install  ## Does the network hide? Steps/s at 100 Mbps against no network (docs/benchmarks/hiding.md)
	$(PYTHON) -m bench.hiding

bench-silence: install  ## Does rule="local" wait? Steps/s on slow and cut links (docs/benchmarks/silence.md)
	$(PYTHON) -m bench.silence

bench-convergence: setup  ## What update rules learn from equal bytes; ARGS="--plan sweep ..." (docs/benchmarks/convergence.md)
	$(PYTHON) -m bench.convergence $(ARGS)

soak: install  ## 10,000 iterations: flat memory; an idle engine: below 1 % of a core
	$(PYTHON) -m bench.soak

asan tsan: setup  ## The C++ tests under AddressSanitizer+UBSan, or ThreadSanitizer
	cmake --preset $@
	cmake --build --preset $@ -j $(BUILD_JOBS)
	ctest --preset $@

emulate-avx512: build-tests  ## The tests that compare instruction sets, on an emulated CPU with AVX-512 (docs/testing.md)
	tools/emulate_avx512.sh

fuzz: setup  ## The parsers of everything that peers send, for FUZZ_SECONDS each
	tools/fuzz.sh $(or $(FUZZ_SECONDS),60)

clean:  ## Removes build/ (not .venv/)
	rm -rf build
