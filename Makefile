# `make demo` and `make test` set everything up themselves; all they need is python3 with venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Rebuilt when the interpreter or what is to be installed changes, not otherwise.
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: help install demo test test-slow lint bench clean
help:
	@echo "make demo       train a small model, mixture learned by Aioli, against its controls (~5 min)"
	@echo "make test       all fast tests (< 10 min on 2 cores); test-slow: the rest"
	@echo "make lint       ruff;  make bench: timings against peers;  make clean: remove .venv"

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

bench: install
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,bench]' -c constraints.txt
	$(PY) -m benchmarks.train_step
	$(PY) -m benchmarks.loader
	$(PY) -m benchmarks.mixing_overhead
	$(PY) -m benchmarks.mixing

clean:
	rm -rf $(VENV)
