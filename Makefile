# Every target but help and clean first makes the machine ready; see tests/bootstrap.sh.
.DEFAULT_GOAL := help
.PHONY: help bootstrap test demo bench lint types format clean

PYTHON := .venv/bin/python

help:  ## print this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

bootstrap:  ## install HAProxy, Consul and .venv where they are missing
	@tests/bootstrap.sh

test: lint types  ## run every check and every test, with a real HAProxy and a real Consul
	$(PYTHON) -m pytest tests

demo: bootstrap  ## show hapsync at work; KEEP=1 leaves everything running afterwards
	$(PYTHON) -m tests.demo $(if $(KEEP),--keep)

bench: bootstrap  ## measure how long a change takes from Consul to HAProxy
	$(PYTHON) -m tests.bench

lint: bootstrap  ## check style, formatting and which module may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types: bootstrap  ## check types with mypy
	.venv/bin/mypy hapsync tests

format: bootstrap  ## format the code and mend what ruff can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:  ## remove .venv, caches and build leftovers
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
