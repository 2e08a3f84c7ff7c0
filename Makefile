# `make` prints the targets. Everything is built in .venv and _build; nothing else is touched.
PROFILE ?= book
PORT ?= 8000
TORCH ?= auto
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

BIN := .venv/bin
STAMP := .venv/.stamp
DATAFREE := $(BIN)/python -m datafree.cli
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

# glibc keeps freed memory instead of giving it back after every tensor: faster on a CPU.
export MALLOC_MMAP_THRESHOLD_ := 8589934592
export MALLOC_TRIM_THRESHOLD_ := 8589934592
# Idle threads sleep instead of spinning: much faster where anything else uses the processor.
export OMP_WAIT_POLICY ?= passive
# The environment's own kernel, whatever kernels the user has.
export JUPYTER_PREFER_ENV_PATH := 1
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

HASHED := --require-hashes --no-deps -r requirements.txt
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
UV_TORCH := $(UV_INSTALL) -r requirements-torch.txt
BACKEND := $(if $(filter-out default,$(TORCH)),$(if $(UV_FIND_LINKS),,--torch-backend=$(TORCH)))

.PHONY: help book pdf pack test bench audit lab serve clean pins
.DEFAULT_GOAL := help

help:
	@echo "make book    environment, notebooks, rendered pages in _build/html (again: only what changed)"
	@echo "make pdf     the rendered book as one PDF (needs Chromium)"
	@echo "make pack    ledger, records, notebooks and schemas as one archive (an RO-Crate)"
	@echo "make test    every test, and every notebook once more in short"
	@echo "make bench   speed and memory against the naive version -> _build/bench.json"
	@echo "make audit   the evidence: profile reduced, seeds 0 to 2 -> book/records; only what is stale"
	@echo "make lab     JupyterLab on the notebooks"
	@echo "make serve   the rendered book on http://localhost:$(PORT)"
	@echo "make clean   remove what was built; .venv stays"
	@echo "make pins    requirements.txt anew, from pyproject.toml, with the hashes of all files"
	@echo "PROFILE=smoke|book|reduced|paper picks another profile; TORCH=auto|cpu|cu130|default the build of torch."

# First everything but torch, each file by its hash; then the build of torch that uv finds for this machine, or the usual
# one where its index cannot be reached, or where PIP_FIND_LINKS says what to take.
$(STAMP): requirements.txt requirements-torch.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed, and none was found; install it, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is older or does not start." >&2; exit 1; }
	@echo "installing the packages of requirements.txt in .venv (the first time takes a few minutes)"
	@if command -v uv >/dev/null 2>&1; then \
		{ $(BIN)/python -c '' 2>/dev/null || uv venv --quiet --clear --python "$(PYTHON)" .venv; } && \
		uv pip install --quiet --python $(BIN)/python $(HASHED); \
	else \
		{ $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv; } && \
		$(BIN)/python -m pip install -qq --disable-pip-version-check $(HASHED); \
	fi && \
	if [ -n "$(BACKEND)" ] && [ "$(TORCH)" = auto ]; then $(UV_TORCH) $(BACKEND) 2>/dev/null || $(UV_TORCH); \
	else $(UV_TORCH) $(BACKEND); fi && \
	$(UV_INSTALL) --no-deps -e . || { \
		echo "the packages could not be installed; what is above says why. Run the same command to try again." >&2; exit 1; }
	@touch $@

# Renews the pins and hashes for every system: those that stand in requirements.txt stay where they fit pyproject.toml.
pins: $(STAMP)
	@mkdir -p _build && cp requirements.txt _build/pins.txt
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra book --extra export --extra slurm --extra test \
		--constraints requirements-torch.txt --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --output-file _build/pins.txt
	@{ echo "# Every package but torch (requirements-torch.txt), as tried together, with the hashes of its files: made by 'make pins'."; \
		awk '/^[a-z]/ {keep = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/} keep' _build/pins.txt; \
	} > _build/requirements.txt && mv _build/requirements.txt requirements.txt

book: $(STAMP)
	@$(DATAFREE) build book --profile $(PROFILE)

_build/html/index.html: | $(STAMP)
	@$(DATAFREE) build book --profile $(PROFILE)

# The tests look at the rendered book. Where none was made, one with the parameters of the profile 'smoke' will do: the
# same cells and pages in minutes. nbval runs each notebook so, and compares the outputs of its checks. Three workers with
# one thread each; a notebook stays with one worker, the longest file comes first.
test: $(STAMP)
	@[ -f _build/html/index.html ] || $(DATAFREE) build book --profile smoke
	@$(DATAFREE) shorten _build/nbval
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile -rs \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 600 tests/book/test_browser.py _build/nbval tests

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

audit: PROFILE = reduced
audit: $(STAMP)
	@$(DATAFREE) build audit --profile $(PROFILE)

pdf: _build/html/index.html
	@$(DATAFREE) pdf

pack: _build/html/index.html
	@$(DATAFREE) pack

lab: $(STAMP)
	@$(BIN)/jupyter lab $(ROOT_FLAG) --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

serve: _build/html/index.html
	@echo "http://localhost:$(PORT) (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache
