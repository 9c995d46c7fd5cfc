# Everything a fresh machine needs is git, make and Python; the rest comes by itself.
.DEFAULT_GOAL := help
.PHONY: help setup isolators lint types imports docs pytest test sbom mutation test-cluster demo clean
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

# uv from PATH, else one of our own in .uv/
UV := $(shell command -v uv 2>/dev/null || printf .uv/bin/uv)
RUN := $(UV) run --no-sync
# what runs finds uv, too: environments by a lock are built by it
export PATH := $(PATH):$(CURDIR)/.uv/bin
# the tests start thousands of processes: each would compile all of the code again
unexport PYTHONDONTWRITEBYTECODE
# How many processes run the tests. Each starts servers of its own; tests/spread.py says which tests stay together.
PROCESSES ?= 2

# $(call step,what,command): shows what is done and how long it took; the first failure ends everything.
define step
@began=$$(date +%s); printf '\n==> %s\n' '$(1)'; \
$(2) || { code=$$?; printf '==> FAILED: %s (%s s)\n' '$(1)' "$$(( $$(date +%s) - began ))" >&2; exit $$code; }; \
printf '==> done: %s (%s s)\n' '$(1)' "$$(( $$(date +%s) - began ))"
endef

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .uv.ready ## Install everything into .venv
	$(call step,install the locked dependencies,$(UV) sync --locked --all-extras --compile-bytecode)
	$(call step,build the packages that code in the sandbox may import,$(RUN) holdfast sandbox build data)

.PHONY: .uv.ready
.uv.ready:
	@command -v $(UV) >/dev/null || $(MAKE) .uv/bin/uv

.uv/bin/uv:
	@printf '==> uv is not on PATH: installing it into .uv/\n'
	@command -v python3 >/dev/null || { \
	    printf 'error: there is no python3.\n  to do: apt install python3 python3-venv\n' >&2; exit 1; }
	@rm -rf .uv && mkdir .uv && printf '*\n' > .uv/.gitignore
	@if python3 -m venv .uv >.uv/venv.log 2>&1; then \
	    .uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'; \
	elif python3 -m pip --version >/dev/null 2>&1; then \
	    python3 -m pip install --quiet --disable-pip-version-check --target .uv 'uv>=0.9'; \
	else \
	    printf 'error: python3 has neither venv nor pip, so uv cannot be installed.\n' >&2; \
	    printf '  to do: apt install python3-venv (or install uv yourself, so that it is on PATH)\n' >&2; exit 1; \
	fi
	@.uv/bin/uv --version

isolators: ## Install bubblewrap and gVisor, with which the sandbox can be tried as well (root and apt-get; else it says what to do)
	@for pair in bwrap:bubblewrap runsc:runsc; do \
	    package=$${pair#*:}; \
	    if command -v "$${pair%:*}" >/dev/null; then continue; fi; \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        printf '==> install %s\n' "$$package"; \
	        apt-get install -qq -y --no-install-recommends "$$package" >/dev/null 2>&1 || \
	        { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$$package" >/dev/null; } || \
	        printf '==> %s cannot be installed here: its tests are skipped, and counted\n' "$$package"; \
	    else printf '==> %s is not installed: its tests are skipped, and counted (to do: apt install %s)\n' "$$package" "$$package"; fi; \
	done

lint: setup ## Check style and form
	$(call step,ruff check,$(RUN) ruff check .)
	$(call step,ruff format,$(RUN) ruff format --check .)

types: setup ## Check types
	$(call step,mypy,$(RUN) mypy .)

imports: setup ## Check the direction of imports
	$(call step,lint-imports,$(RUN) lint-imports)

docs: setup ## Build the documentation's site into site/, strictly
	$(call step,mkdocs,NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict)

pytest: setup isolators ## Run all tests, on real parts (PROCESSES=1 runs them in one process)
	$(call step,find or bring Temporal,$(RUN) python -m cli.stack.temporal)
	$(call step,find or build the S3 server of the tests,$(RUN) python -m tests.storage.s3_server)
	$(call step,pytest,$(RUN) pytest $(if $(filter-out 1,$(PROCESSES)),-n $(PROCESSES) )$(ARGS))

test: lint types imports docs pytest ## Set up, then lint, types, imports, documentation and tests

mutation: setup ## Change the engine's core, one place at a time, and say which changes no test notices (ARGS="--sample 0" tries all)
	$(call step,try changes,$(RUN) python -m tests.mutation $(ARGS))

sbom: setup ## Write the bill of materials of what runs (CycloneDX)
	$(call step,bill of materials,$(RUN) python -m deploy.sbom --output dist/holdfast.cdx.json)

test-cluster: setup ## Run compose.yaml's services natively, with Temporal's real server; not part of `test`
	$(call step,test-cluster,$(RUN) pytest -v -o python_files='cluster_*.py' tests/cluster $(ARGS))

demo: setup ## Run the demo from start to end (ARGS=--yes answers its questions, ARGS=--keep leaves it up)
	$(call step,demo,$(RUN) python -m demo.refund_desk $(ARGS))

clean: ## Remove what setup has made
	rm -rf .venv .uv
