# Everything a newcomer or a developer runs. `make help` lists the targets.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
CONFIG  ?= configs/demo.yaml
PIP     := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv
NATIVE  := gptoss_ray/kernels/native
FUZZ_S  ?= 60
SLOW    := oracle or soak or gpu or ep or hosts or browser or chaos or fault_soak or clients or up or scale or promtool or \
           sm90

.DEFAULT_GOAL := help
.PHONY: help serve test check lint typecheck native proto bench wheel test-oracle test-ep test-soak test-chaos \
        test-fault-soak test-gpu test-sm90 test-hosts test-browser test-clients test-up test-scale test-promtool \
        test-sanitize fuzz train-demo clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

serve: $(VENV)/.serve-installed ## install, serve the demo model (or CONFIG=...) and ask it a question
	@exec $(BIN)/gptoss-ray serve $(CONFIG)

test: $(VENV)/.dev-installed ## install and run the tests
	$(BIN)/python -m pytest -p tests.support.second_process -m "not ($(SLOW))"

check: lint typecheck test ## lint, typecheck and test

lint: $(VENV)/.dev-installed ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev-installed ## mypy, strict
	$(BIN)/mypy

native: | $(BIN)/python ## compile the C++ kernels: the files that changed
	$(BIN)/python -m gptoss_ray.kernels.native.build

proto: $(VENV)/.dev-installed ## generate the gRPC stubs from protos/
	$(BIN)/python protos/generate.py

bench: $(VENV)/.dev-installed ## measure the server that `make serve` runs: latency, throughput, accuracy
	$(BIN)/gptoss-ray bench serving
	$(BIN)/gptoss-ray bench demo-quality

wheel: $(VENV)/.serve-installed ## build dist/, which the nodes of a cluster install (cluster/*.yaml)
	rm -f dist/gptoss_ray-*.whl
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

test-oracle: $(VENV)/.dev-installed ## compare with transformers at the 20b width (minutes, ~6 GB)
	$(BIN)/python -m pytest -m oracle

test-ep: $(VENV)/.dev-installed ## every group of ranks against one rank, and the true widths (minutes, ~6 GB)
	$(BIN)/python -m pytest -m ep

test-soak: $(VENV)/.dev-installed ## 64 streaming chats for 60 s, and `bench ingress` behind HAProxy
	$(BIN)/python -m pytest -m soak

test-chaos: $(VENV)/.dev-installed ## kill processes and change configurations under load, ranks at every point: every stream stays exact (an hour)
	$(BIN)/python -m pytest -m chaos

test-fault-soak: $(VENV)/.dev-installed ## 50 streams for 20 minutes, a fault every 45 s: no answer wrong or missing
	$(BIN)/python -m pytest -m fault_soak

test-sm90: $(VENV)/.dev-installed ## the largest Triton kernels compiled for a Hopper card, without one
	$(BIN)/python -m pytest -m sm90 tests/unit/kernels/triton

test-gpu: $(VENV)/.dev-installed ## the Triton kernels on a card, over true shapes (needs a GPU)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu tests/gpu

test-scale: $(VENV)/.dev-installed ## a load that grows and ends: replicas of two models come and go, no stream is cut (minutes)
	$(BIN)/python -m pytest -m scale

test-hosts: $(VENV)/.dev-installed ## serve from ranks on several hosts, built in namespaces (root, 3 GB)
	$(BIN)/python -m pytest -m hosts

test-up: $(VENV)/.dev-installed ## a cluster from nothing to an answer by `ray up` over ssh, on hosts in namespaces (root, sshd, rsync; 4 GB)
	$(BIN)/python -m pytest -m up

# No browser is downloaded: Chromium is Debian's, or that of CHROMIUM. axe-core comes from npm.
test-browser: $(VENV)/.browser-installed ## the pages in Chromium (CHROMIUM=..., else the one on the path; node, npm)
	$(BIN)/python -m pytest -m browser

test-clients: $(VENV)/.dev-installed ## other people's clients, installed (PyPI, npm; 5 GB) and run; writes docs/clients.md
	$(BIN)/python -m pytest -m clients tests/clients/installed -p tests.support.clients_table --table docs/clients.md

test-promtool: $(VENV)/.dev-installed ## Prometheus evaluates the Grafana dashboard's queries (PROMTOOL=..., else the one on the path)
	$(BIN)/python -m pytest -m promtool

# The sanitizers go first, and C++ with them: Python has no C++ of its own for them to find.
test-sanitize: $(VENV)/.dev-installed ## the C++ kernels' tests under gcc's sanitizers of memory and undefined behaviour (minutes)
	$(BIN)/python -m gptoss_ray.kernels.native.build --sanitize --out build/sanitize/_native.so
	GPTOSS_RAY_NATIVE_LIBRARY=$(CURDIR)/build/sanitize/_native.so \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python -m pytest --capture=sys tests/unit/$(NATIVE:gptoss_ray/%=%)

# atheris is no part of the development tools: it has wheels for few platforms.
fuzz: $(VENV)/.dev-installed ## feed readers of untrusted bytes by atheris, FUZZ_S seconds each (60)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install atheris
	set -e; for target in harmony safetensors configuration request_body; do \
	  $(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(FUZZ_S) -max_len=4096; done

# Every step has other batch sizes: without these, oneDNN's cache and malloc's defaults cost much of the time. What is
# freed is kept (glibc ignores a threshold for mmap above 32 MiB without a word), and lies in huge pages.
train-demo: export ONEDNN_PRIMITIVE_CACHE_CAPACITY = 8000
train-demo: export OMP_WAIT_POLICY = PASSIVE
train-demo: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000:glibc.malloc.top_pad=400000000
train-demo: $(VENV)/.dev-installed ## train the built-in demo model again (88 minutes on 2 cores), into build/demo
	$(BIN)/python -m gptoss_ray.demo_training --out build/demo --work build/demo-training --minutes 88

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis $(NATIVE)/_native.*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.")'
	$(PYTHON) -m venv $(VENV)

# Compiled before pip does, which would do the same in silence. Where that fails, all works without, but slowly.
$(VENV)/.native-built: setup.py $(wildcard $(NATIVE)/build.py $(NATIVE)/src/*) | $(BIN)/python
	@$(BIN)/python -m gptoss_ray.kernels.native.build --or-warn
	@touch $@

# torch goes first: a CPU build that is already chosen (or that PIP_EXTRA_INDEX_URL offers) stays.
$(VENV)/.serve-installed: pyproject.toml constraints.txt setup.py | $(VENV)/.native-built
	@echo "Installing gptoss-ray into $(VENV) (once; a few minutes) ..."
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt setup.py | $(VENV)/.native-built
	@echo "Installing gptoss-ray and its development tools into $(VENV) (once; a few minutes) ..."
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.serve-installed

$(VENV)/.browser-installed: tests/browser/requirements.txt tests/browser/package.json | $(VENV)/.dev-installed
	$(PIP) install --quiet --requirement tests/browser/requirements.txt
	mkdir -p build/browser
	cp tests/browser/package.json build/browser/
	npm install --prefix build/browser --no-audit --no-fund --no-package-lock --silent
	@touch $@
