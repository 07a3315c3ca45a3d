# Set-up, tests and the main job, each safe to repeat.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# The way of the data as far as it goes today: real flows to rasters and back to packets.
demo: install
	mkdir -p demo-out/rasters/ssh demo-out/rasters/voip
	$(BIN)/netdiff encode samples/train demo-out/encoded
	$(BIN)/netdiff convert samples/heldout/ssh/host-0.pcap.gz demo-out/rasters/ssh/flow.png
	$(BIN)/netdiff convert samples/heldout/voip/host-0.pcap.gz demo-out/rasters/voip/flow.png
	$(BIN)/netdiff repair demo-out/rasters demo-out/dataset
	$(BIN)/netdiff verify demo-out/dataset
	$(BIN)/netdiff check demo-out/dataset/label=*/*.pcap

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: install
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo-out benchmarks/out
