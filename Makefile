# Everything a person does with this repository. `make` alone lists it; the work is done by tools/ and by the tools themselves.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test test-full test-kvm test-docker-py check fmt agent kernel bench peers lock clean

# Unpacked tools of the tests (tools/setup) come after the machine's own.
export PATH := $(PATH):$(CURDIR)/build/tools
PYTEST := .venv/bin/python -m pytest
# More of pytest's arguments: make test ARGS='tests/unit -x'
ARGS ?=

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:           ## install and build what is missing to use Hyper: .venv/bin/hyper, .venv/bin/hyperd
	@tools/setup run

setup-test:
	@tools/setup test

demo: setup      ## run a busybox container in a VM, and stop everything again
	@tools/demo

test: setup-test ## style, types and all tests but the long-running ones
	@tools/check
	@$(PYTEST) -q -m 'not slow' $(ARGS)

test-full: setup-test ## style, types and all tests at full size
	@tools/check
	@$(PYTEST) -q $(ARGS)

test-kvm: setup-test ## all tests of the way with KVM, on an emulated host that has one
	@$(PYTEST) -v tests/kvm $(ARGS)

test-docker-py: setup-test ## docker-py's own integration tests (from PyPI) against hyperd, held against the list of known failures
	@.venv/bin/python -m tests.compat.docker_py_suite.run $(ARGS)

check: setup-test ## style and types only
	@tools/check

fmt: setup-test  ## rewrite Python and Rust sources in the house's format
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format --quiet .
	@if cargo fmt --version >/dev/null 2>&1; then cd agent && cargo fmt; else echo 'fmt: no rustfmt here, agent/ left as it is'; fi

agent: setup     ## build the agent that runs as PID 1 in each VM

kernel:          ## build the tuned guest kernel from Debian's sources (minutes)
	@tools/setup kernel
	@kernel/build.sh

bench: setup-test ## measure Hyper beside Docker and Podman, into docs/benchmarks.md; ARGS=--small for a short one
	@.venv/bin/python -m bench $(or $(ARGS),--write)

peers:           ## unpack Debian's Docker and Podman into build/peers, for make bench; installs nothing
	@tools/peers

lock: setup-test ## write the lock files anew from pyproject.toml
	@tools/lock

clean:           ## remove what was built; containers and images of running daemons are not touched
	@rm -rf build agent/target .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
