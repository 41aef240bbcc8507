# The commands of this project. Each builds the environment it needs; nothing has to be installed by hand.
PYTHON := .venv/bin/python

.PHONY: help env demo test interop long bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

env: ## build .venv from the locked, hashed list (Python 3.11 or newer)
	@scripts/environment

demo: env ## agents on this machine: lend a tool, call it, refuse a stranger, read the record
	@$(PYTHON) -m talos demo

test: env ## the gate: format, lint, types, floors, generated code, tests, examples, wheel
	@scripts/check

interop: env ## every cell of interop/matrix.toml and the tools of npm, against what we did not write
	@$(PYTHON) -m interop
	@$(PYTHON) -m pytest -q -m interop tests/mcp tests/e2e tests/chain tests/gossip

long: env ## fuzzing, simulations and long attacks: 20 minutes
	@scripts/long

bench: env ## every row of the goals, beside the other implementations, into docs/benchmarks.md
	@$(PYTHON) -m bench --write-docs

lock: ## resolve the dependencies again (needs uv)
	@scripts/lock

clean: ## remove what the other targets made here
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
