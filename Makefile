# Set-up, tests and the main job, each safe to repeat.
#
# The newest supported Python of this machine that can make environments; PYTHON=... chooses another.
# A .venv that exists stays with its Python: `make clean` lets it go.
PYTHON ?= $(or $(firstword $(foreach version,3.13 3.12 3.11,$(shell \
    python$(version) -c 'import ensurepip, sys; print(sys.executable)' 2>/dev/null))),$(error \
    Python 3.11, 3.12 or 3.13 with its venv module is needed; PYTHON=... names one))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels

.PHONY: install demo test lint bench clean

install: $(KERNELS)

$(BIN)/python:
	$(PYTHON) -m venv --clear $(VENV)

$(STAMP): pyproject.toml constraints.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# numba looks only at the file of the outermost function: compiled kernels would go on with what they
# once called, after a pull.
$(KERNELS): $(STAMP) $(shell find netdiff_ray -name '*.py')
	find netdiff_ray -name '*.nb[ci]' -delete
	$(BIN)/python -c "from netdiff_ray.generation.flow_repair import compile_kernels; compile_kernels()"
	touch $(KERNELS)

# The main job on the bundled samples. The labels mqtt and quic were left out when the embedded
# base was trained, so that the adapter has something to learn.
DEMO_LABELS ?= mqtt quic dns
# The one place to tune how long the demo takes and how good it gets.
DEMO_FLAGS ?= --base nano --height 64 --train-steps 220 --flows 110 --flows-per-shard 55 \
    --draw-steps 4 --max-quarantined-share 0.3

demo: install
	$(BIN)/netdiff pipeline samples/train demo-out --heldout samples/heldout \
	    --labels $(DEMO_LABELS) $(DEMO_FLAGS)
	$(BIN)/netdiff verify demo-out/dataset

# Two processes, of which one has the tests of one Ray, and the other those of a cluster's head.
test: install
	$(BIN)/python -m pytest --numprocesses 2

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: demo
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo-out benchmarks/out
