# `make demo` and `make test` set everything up themselves; all they need is python3 with venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Rebuilt when the interpreter or what is to be installed changes, not otherwise.
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: help install demo test test-slow lint aot bench clean
help:
	@echo "make demo       train a small model, mixture learned by Aioli, against its controls (~5 min)"
	@echo "make test       all fast tests (~33 min on 2 cores); test-slow: the rest"
	@echo "make aot        every GPU kernel compiled for the H100, without a GPU (~10 min)"
	@echo "make lint       ruff;  make bench: timings against peers;  make clean: remove .venv, .aot"

install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	rm -f $(VENV)/.installed-*
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]' -c constraints.txt
	touch $@

demo: install
	$(PY) -m train aioli

test: install
	$(PY) -m pytest -n 2 --dist loadfile

test-slow: install
	$(PY) -m pytest -n 2 -m slow

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The compiler of GPU kernels, 0.5 GB, apart from everything else: jax would take it for a GPU.
AOT := .aot-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(AOT)/.installed: $(STAMP)
	rm -rf $(AOT)
	PYTHONPATH=. $(PY) -c 'from pallas_kernels.aot_target import wheels; print(*wheels())' | \
	  xargs $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(AOT)
	touch $@

# With jax 0.10 here (Python 3.11), once more with jax 0.11 where there is a Python 3.12: ONLY and
# ONLY312 are the first letters of a word in the names of the cases (none: all of them).
PYTHON312 ?= $(firstword $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.12*/bin/python) python3.12)
aot: $(AOT)/.installed
	PYTHONPATH=$(AOT) JAX_PLATFORMS=cpu $(PY) -m pallas_kernels.aot --only "$(ONLY)"
	@if [ $(AOT) = .aot-3.11 ] && $(PYTHON312) --version >/dev/null 2>&1; then \
	  $(MAKE) aot PYTHON=$(PYTHON312) VENV=.venv-3.12 ONLY="$(ONLY312)"; fi

bench: install
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,bench]' -c constraints.txt
	$(PY) -m benchmarks.train_step
	$(PY) -m benchmarks.loader
	$(PY) -m benchmarks.mixing_overhead
	$(PY) -m benchmarks.mixing
	$(PY) -m benchmarks.linear_attention
	$(PY) -m benchmarks.sampling
	$(PY) -m benchmarks.linearize
	$(PY) -m benchmarks.precision
	$(PY) -m benchmarks.precision_training
	$(PY) -m benchmarks.vq

clean:
	rm -rf $(VENV) .venv-3.12 .aot-*
