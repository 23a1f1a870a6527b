# Every target first makes the virtual environment, and again when pyproject.toml has changed.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all check bench peers
.DELETE_ON_ERROR:

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	mkdir -p build
	$(BIN)/conet-graph analyze models/samples/digits.onnx
	$(BIN)/conet-graph rewrite models/samples/digits.onnx -o build/digits-half.onnx --macs 0.5
	rm -rf build/search
	$(BIN)/conet-graph search models/samples/digits.onnx --data digits --out build/search --trials 12 --epochs 8 \
		--delta 0.04 --gamma 0.05 --min-width 8 --max-width 96 --batch 32 --lr 0.2 --weight-decay 0.005 \
		--schedule cosine
	$(BIN)/conet-graph report build/search

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto

# Everything there is to test, in four pieces. A piece that has passed leaves a file behind: after a stop or a failure
# `make test-all` goes on with the pieces that are missing, until a file of the project changes. The sweep over a Ray
# cluster, the fuzzer and the ways through other runtimes are tested here only.
PASSED := build/test-all
SOURCES = $(wildcard $(shell git ls-files))

test-all: $(addprefix $(PASSED)/, usual random wide roundtrip)

$(PASSED)/usual: OPTIONS =
$(PASSED)/random: OPTIONS = tests/test_random_graphs.py tests/bridge/test_random_batches.py
$(PASSED)/random: export CONET_GRAPH_EXAMPLES = 2000
$(PASSED)/random: export CONET_GRAPH_BRIDGE_EXAMPLES = 2000
$(PASSED)/wide: OPTIONS = -m wide
$(PASSED)/roundtrip: OPTIONS = -m roundtrip

$(PASSED)/tools: $(INSTALLED) benchmarks/roundtrips/requirements.txt
	$(BIN)/python -m pip install --quiet -e '.[dev,ray]' -r benchmarks/roundtrips/requirements.txt
	mkdir -p $(PASSED)
	touch $@

$(PASSED)/%: $(PASSED)/tools $(SOURCES)
	$(BIN)/python -m pytest -n auto $(OPTIONS)
	touch $@

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	set -e; for script in benchmarks/bench_*.py; do $(BIN)/python "$$script"; done

# The other tools, for the comparisons of docs/BENCHMARKS.md.
peers:
	PYTHON=$(PYTHON) benchmarks/peers/setup.sh build/peers-venv
