# `make` lists the targets. Nothing is done twice: each install leaves a stamp in .venv.

PYTHON ?= python3
PORT ?= 8080
# MODEL=<tag of fetch/catalogue.json> downloads and serves that model in place of the demo, and
# MODEL=<tag>,<tag> several: from a folder of links to them.
MODEL ?=
comma := ,
tags := $(subst $(comma), ,$(MODEL))
several := $(word 2,$(tags))
MODELS_DIR ?= $(if $(MODEL),$(if $(several),build/)models/$(MODEL),demo/models)
# What `make image` makes.
IMAGE ?= multi2vec-clip-service
# Tests run in so many processes side by side: one more than cores, as many tests wait. Files stay
# whole, as each loads its models once, and begin in the order of tests/conftest.py.
TEST_WORKERS ?= 3
# What installs in place of pip, such as UV=uv: it takes a third of pip's time.
UV ?=
# Where torch and torchvision come from, if not from pip's own index (the CPU wheels, for instance).
TORCH_INDEX_URL ?=

VENV := .venv/bin
install = $(if $(UV),$(UV) pip install --python $(1)/bin/python,$(1)/bin/pip install)
compile = $(VENV)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header
SOURCES := *.py web inference backends fetch tests bench demo documentation examples
# A path as one word of the shell, with spaces and quotes in it too; `~/` stays a home.
quoted = $(subst '~/,~/','$(subst ','\'',$(1))')
pytest = $(VENV)/python -m pytest
beside = -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# What takes more than serving a converted model does: whoever converts, and torch itself.
converted = $(shell cd $(call quoted,$(MODELS_DIR)) 2>/dev/null && \
	ls model.json converted/*/model.json 2>/dev/null)
with_torch = $(or $(MODEL),$(filter 1 true True TRUE,$(ENABLE_CUDA)),$(filter torch,$(RUNTIME)),\
	$(if $(converted),,$(MODELS_DIR)))

.DEFAULT_GOAL := help
.PHONY: help run known-model photos test test-fast test-clients test-long test-images \
	test-compose test-cluster image lint type format lock demo demo-converted bench docs docs-serve docs-update clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifneq ($(wildcard .venv/python),)
sound := $(shell $(VENV)/python -c '' && test -x "$$(sed -n '1s/^\#!//p' $(VENV)/pip)" && echo yes)
ifneq ($(sound),yes)
$(error The virtual environment .venv is broken: it was moved, or its Python is gone. \
	Run `make clean`, then this again)
endif
endif
endif

run: $(if $(MODEL),known-model) $(if $(with_torch),.venv/models,.venv/serving) ## install, then serve the demo model, or MODEL=<tag>[,<tag>], on PORT (8080)
	$(if $(MODEL),$(foreach tag,$(tags),$(VENV)/python download.py --model $(tag) &&) true)
	$(if $(several),@rm -rf $(MODELS_DIR) && mkdir -p $(MODELS_DIR) && \
		ln -s $(foreach tag,$(tags),"$$PWD/models/$(tag)") $(MODELS_DIR))
	@echo Serving $(call quoted,$(MODELS_DIR)) on http://localhost:$(PORT)
	@$(if $(several),DEFAULT_MODEL="$${DEFAULT_MODEL:-$(MODEL)}") \
		MODELS_DIR=$(call quoted,$(MODELS_DIR)) PORT=$(PORT) exec $(VENV)/python app.py

# Before gigabytes are installed for a name that is misspelt.
known-model: .venv/python
	@$(foreach tag,$(tags),$(VENV)/python -m fetch.catalogue --build-args $(tag) > /dev/null &&) true

photos: .venv/examples/done ## import the images of FOLDER (demo/samples) into Weaviate, find TEXT
	.venv/examples/bin/python -m examples.photos \
		$(if $(FOLDER),"$(FOLDER)") $(if $(TEXT),--text "$(TEXT)")

# Hundreds of processes import the same modules, torch's above all. What an earlier one compiled is
# kept, also where the environment forbids it, as those of containers often do.
test test-fast test-clients test-long: export PYTHONDONTWRITEBYTECODE :=

test: .venv/dev ## install, then run the tests
	@command -v chromium || command -v google-chrome || \
		echo "NO BROWSER: the debug page is NOT tested"
	$(VENV)/python -m tests.conversions
	$(pytest) $(beside) -m "not long and not clients"

test-fast: .venv/dev ## the tests of the service that need no model library (a minute)
	$(pytest) --fast $(beside) -m "not long and not clients"

test-clients: .venv/dev build/clients/installed ## try the clients of all wires
	$(pytest) -m clients

test-long: .venv/dev ## the tests that take minutes: each night
	$(pytest) -m long

test-images: .venv/dev ## build the images with BUILDER (docker), run and ask them (half an hour)
	$(VENV)/python -m tests.images

test-compose: .venv/dev ## bring up the compose files by Docker, ask and stop them (a quarter of an hour)
	$(VENV)/python -m tests.compose

test-cluster: .venv/dev ## run deploy/ in a cluster by kind, or by CLUSTER=lab, and strike at it (an hour)
	$(VENV)/python -m tests.cluster

image: ## build IMAGE with the model that the variables name, such as CLIP_MODEL_NAME
	LOCAL_REPO=$(IMAGE) cicd/build.sh

lint: .venv/lint ## check style
	$(VENV)/ruff check $(SOURCES)
	$(VENV)/ruff format --check $(SOURCES)

type: .venv/dev .venv/examples/done ## check types
	$(VENV)/mypy $(filter-out examples,$(SOURCES))
	$(VENV)/mypy --python-executable .venv/examples/bin/python \
		--cache-dir .mypy_cache/examples examples

format: .venv/lint ## fix style
	$(VENV)/ruff check --fix $(SOURCES)
	$(VENV)/ruff format $(SOURCES)

lock: .venv/dev ## derive each requirements.txt from its requirements.in
	$(VENV)/pip install -q uv
	@# CUDA's packages are left out: torch names its own exactly, and its CPU flavour needs none.
	{ echo '# Locked from requirements.in by `make lock`; torch brings the CUDA packages it needs.'; \
	  $(compile) requirements.in | grep -vE '^(cuda|nvidia)-|^triton='; } > requirements.txt.new
	mv requirements.txt.new requirements.txt
	{ echo '# Locked from requirements-serve.in by `make lock`, in the versions of requirements.txt.'; \
	  $(compile) --generate-hashes -c requirements.txt requirements-serve.in; } > requirements.txt.new
	mv requirements.txt.new requirements-serve.txt
	{ echo '# Locked from requirements-tracing.in by `make lock`: beside requirements.txt or requirements-serve.txt.'; \
	  $(compile) --generate-hashes -c requirements.txt requirements-tracing.in; } > requirements.txt.new
	mv requirements.txt.new requirements-tracing.txt
	{ echo '# Locked from requirements-redis.in by `make lock`: beside requirements.txt or requirements-serve.txt.'; \
	  $(compile) --generate-hashes -c requirements.txt requirements-redis.in; } > requirements.txt.new
	mv requirements.txt.new requirements-redis.txt
	{ echo '# Locked from requirements.in by `make lock`.'; \
	  $(compile) examples/requirements.in; } > requirements.txt.new
	mv requirements.txt.new examples/requirements.txt

demo: .venv/models ## train the demo model again from scratch (half an hour and more on 2 cores)
	$(VENV)/python -m demo.train
	$(VENV)/python -m demo.convert

demo-converted: .venv/models ## convert the demo model again, for `make run` without torch
	$(VENV)/python -m demo.convert

bench: .venv/models ## measure the service beside the bare model on this machine
	$(VENV)/python -m bench

docs: .venv/docs/done ## build the site of the documentation into build/site, strictly
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict
	@! grep -rEl --include='*.html' '(<script|<link rel="stylesheet")[^>]*(src|href)="https?:' build/site || \
		{ echo "These pages need another host"; exit 1; }

docs-serve: .venv/docs/done ## show the site on http://localhost:8000, and build it anew when a page changes
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs serve

docs-update: .venv/dev ## write the generated parts of docs/ anew: settings, drawings, screenshots
	$(VENV)/python -m documentation.settings
	$(VENV)/python -m documentation.drawings
	$(VENV)/python -m documentation.screenshots

clean: ## remove what was installed and built; models stay
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	@echo "Making the virtual environment .venv"
	$(PYTHON) -m venv .venv
	@touch $@

.venv/serving: .venv/python requirements-serve.txt $(if $(MODEL),| known-model)
	@echo "Installing what serves a converted model: about 110 MB"
	$(call install,.venv) -r requirements-serve.txt
	@touch $@

.venv/models: .venv/serving requirements.txt cicd/install_requirements.sh
	@echo "Installing torch and the model libraries: several gigabytes with CUDA's"
	TORCH_INDEX_URL=$(TORCH_INDEX_URL) cicd/install_requirements.sh $(call install,.venv)
	@touch $@

.venv/dev: .venv/models requirements-dev.txt
	@echo "Installing what the tests need"
	$(call install,.venv) -r requirements-dev.txt
	@touch $@

.venv/lint: .venv/python requirements-dev.txt
	@echo "Installing ruff"
	$(call install,.venv) $$(grep '^ruff==' requirements-dev.txt)
	@touch $@

# An environment of its own: Weaviate's client needs an older protobuf than the service has.
.venv/examples/done: .venv/python examples/requirements.txt
	@echo "Installing Weaviate's client"
	$(PYTHON) -m venv .venv/examples
	$(call install,.venv/examples) -r examples/requirements.txt
	@touch $@

.venv/docs/done: .venv/python requirements-docs.txt
	@echo "Installing what builds the site, in an environment of its own"
	$(PYTHON) -m venv .venv/docs
	$(call install,.venv/docs) -r requirements-docs.txt
	@touch $@

build/clients/installed: tests/clients/requirements.txt tests/clients/package.json
	@echo "Installing the clients, in an environment of their own"
	$(PYTHON) -m venv build/clients/venv
	$(call install,build/clients/venv) -r tests/clients/requirements.txt
	cp tests/clients/package.json build/clients
	PATH="$(CURDIR)/build/clients/venv/bin:$$PATH" npm install --prefix build/clients --no-package-lock --no-audit --no-fund
	@touch $@
