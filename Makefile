# Every target but help and clean first makes the machine ready; see tests/bootstrap.sh.
.DEFAULT_GOAL := help
.PHONY: help bootstrap test test-quick test-faults test-versions test-consul test-python test-lab matrix matrix-churn matrix-latency scan soak lab lab-scale release-figures demo bench lint types format clean

PYTHON := .venv/bin/python
MINUTES ?= 30
PYTHONS ?= 3.13 3.14
VERSIONS ?= 2.6 2.8 3.0 3.2 3.4
# Tests that wait for most of their time: four at once keep two cores less busy than two of the others.
WAITING := -n4
# Unit tests that start programs or search for long.
LONG_UNITS := $(addprefix tests/test_,architecture.py cli_people.py demo_stage.py dependencies.py harness.py harness_faults.py imports.py \
	laws.py laws_can_fail.py laws_over_time.py scripts.py)
# Of the fault suite, what is done to Consul or by it.
CONSUL_FAULTS := $(addprefix tests/faults/test_,bad_data.py consul_away.py consul_lies.py flapping.py guard.py naive.py)
MATRIX = $(PYTHON) -m tests.matrix $(if $(FRESH),--fresh)

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

bootstrap:  ## install HAProxy, Consul and .venv where they are missing
	@tests/bootstrap.sh

test: lint types  ## run every check, every test but the long ones, and a quick form of the lab (needs root), with real programs
	$(PYTHON) -m pytest $(WAITING) tests
	$(PYTHON) -m tests.lab --quick

test-quick: bootstrap  ## style, types and the core, without programs and without long searches: for every change, in under a minute
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/mypy hapsync tests
	$(PYTHON) -m pytest -q $(filter-out $(LONG_UNITS),$(wildcard tests/test_*.py))

test-faults: bootstrap  ## break Consul, HAProxy and what is between, and count the requests that are lost; REST=1: but what `make test` runs
	$(PYTHON) -m pytest $(WAITING) tests/faults $(if $(REST),-m "not quick")

test-versions: bootstrap  ## run what depends on HAProxy's version with each; VERSIONS="2.6 3.4" for some
	set -e; for version in $(VERSIONS); do \
		haproxy=$$(tests/roots.sh $$version); \
		echo "HAProxy $$version"; \
		HAPROXY=$$haproxy $(PYTHON) -m pytest $(WAITING) tests/versions; \
	done

test-consul: bootstrap  ## what has to do with Consul, with 1.14.11, which is built once: needs Go and the module proxy
	set -e; consul=$$(tests/consul.sh 1.14.11); \
		CONSUL=$$consul $(PYTHON) -m pytest $(WAITING) tests/consul tests/edge tests/live $(CONSUL_FAULTS)

test-python: bootstrap  ## the unit tests with Python 3.13 and 3.14, which are fetched; PYTHONS="3.14" for some
	set -e; for version in $(PYTHONS); do \
		python=$$(tests/pythons.sh $$version); \
		echo "$$($$python --version): the unit tests"; \
		$$python -m pytest tests/test_*.py; \
	done

test-lab:  ## the tests of the lab; needs root
	@tests/bootstrap.sh wrk
	$(PYTHON) -m pytest tests/lab

matrix: bootstrap  ## play every story on each HAProxy and print one table; VERSIONS="2.6 3.0" for some, FRESH=1 fetches them anew
	$(MATRIX) --versions $(VERSIONS) --jobs 2

matrix-churn: bootstrap  ## 1,000 instances in and 1,000 out on each HAProxy that adds servers
	$(MATRIX) --versions $(filter-out 2.6 2.8,$(VERSIONS)) --stories churn

matrix-latency: bootstrap  ## how fast requests are while servers come and go, beside the same load without, on each HAProxy
	$(MATRIX) --versions $(VERSIONS) --stories latency

scan: bootstrap  ## look for what `add server` does and no reply shows, on each HAProxy; KEEP=1 keeps what was found
	$(PYTHON) -m tests.scan --versions $(VERSIONS) $(if $(KEEP),--keep)

lab: bootstrap  ## each way of keeping HAProxy in sync, measured beside the others; needs root; QUICK=1: few of them
	$(PYTHON) -m tests.lab $(if $(QUICK),--quick)

lab-scale: bootstrap  ## what each way of watching Consul costs its servers, measured, and modelled for 1,000 balancers
	$(PYTHON) -m tests.lab.scale

release-figures: bootstrap  ## lab and lab-scale, whose output goes with a release; needs root
	$(MAKE) lab
	$(MAKE) lab-scale
	@echo "to go with the release: build/lab/ and build/lab-scale/"

soak: bootstrap  ## churn and faults at random, under load; MINUTES=30 unless given
	$(PYTHON) -m tests.soak --minutes $(MINUTES)

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
