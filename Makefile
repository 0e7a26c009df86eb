#: make generate  four sentences by the model that comes with the project (ARGS='--seed 7' for others)
#: make train   train on the bundled novels, then evaluate (ARGS="--epochs 3" adds options)
#: make test    lint, format check, all tests with coverage (ARGS="-k NAME": some, without it; ARGS="-n 0": in one process)
#: make quick   lint, format check and the quick tests, under a minute: after every change
#: make size    lines of the package, its longest function and parameter list
#: make bench   speed against stock MXNet and PyTorch (ARGS="--torch-python PYTHON" for the latter)
#: make lab     open the first notebook in JupyterLab
#: make docs    build the site, docs/_build/html/index.html (its environment is .venv-docs)
#: make env     only build the environment in .venv
#: make horovod build Horovod into it, for training with --kvstore horovod (minutes; needs cmake and a C++ compiler)
#:
#: Any Python 3.8 or newer, a C compiler and make are enough: the first run fetches uv and the locked
#: packages. MXNET=cu112 selects the CUDA 11.2 build of MXNet (and stays selected), MXNET=cpu the default.

UV_VERSION := 0.13.9 # the uv to fetch when there is none on PATH, or only one older than 0.8
UV := $(shell uv --version 2>/dev/null \
  | awk '{split($$2, v, "."); ok = v[1] > 0 || v[2] >= 8} END {exit !ok}' && echo uv || echo .uv/bin/uv)
PYTHON := .venv/bin/python
MXNET ?= $(if $(wildcard .venv/.synced-cu112),cu112,cpu)
SYNCED := .venv/.synced-$(MXNET)

export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV PYTHONHOME
ifdef PIP_CERT # where pip is told which certificates to trust, uv is to trust the same
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

.PHONY: help env generate train test quick lint size bench lab docs horovod
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#: \{0,1\}//p' Makefile

env: $(SYNCED)

generate: env
	$(PYTHON) -m gluonlm.generate austen --sentences 4 --words 120 --temperature 0.7 --capitals $(ARGS)

train: env
	$(PYTHON) -m gluonlm.train --preset austen $(ARGS)

lint: env
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# A worker per core; each keeps the tests that share something: a file's, or a notebook's (tests/conftest.py).
PYTEST := $(PYTHON) -m pytest --numprocesses auto --no-loadscope-reorder -rfEs
COVERAGE := $(if $(filter -k,$(ARGS)),, --cov --cov-report=term-missing:skip-covered --cov-fail-under=90)

test: lint
	$(PYTEST)$(COVERAGE) $(ARGS)

# Without notebooks and pages, groups of workers, benchmarks and whatever else is long (tests/conftest.py).
quick: lint
	$(PYTEST) --quiet -m "not long" $(ARGS)

size: env
	@$(PYTHON) benchmarks/size.py

bench: env
	$(PYTHON) benchmarks/step.py $(ARGS)

lab: env
	$(PYTHON) -m jupyterlab notebooks/01_language_model.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

# Nothing is executed: the pages are the committed notebooks. After a build that failed or was ended all is made anew:
# what it left would warn of itself, or not warn again.
docs: .venv-docs/.synced
	@cd docs && { [ -e _build/.whole ] || rm -rf _build/doctrees _build/html; } && rm -f _build/.whole
	@echo "building the site: a minute or two, the first time" >&2
	@.venv-docs/bin/python -m sphinx -q -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	@touch docs/_build/.whole
	@echo "the site: docs/_build/html/index.html"

# The stamp makes this instantaneous while nothing has changed. A system Python 3.10 without its C headers cannot
# build gluonnlp: uv then fetches an interpreter of its own, as it does where there is no 3.10 at all.
# What uv says is shown, but for the names of all packages; its exit code goes around the filter by descriptor 3.
define sync
@command -v cc >/dev/null || command -v gcc >/dev/null \
  || { echo "error: no C compiler found: install one (Debian, Ubuntu: apt install gcc)" >&2; exit 1; }
@headers='import os, sysconfig; exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; \
python=$$($(UV) python find 2>/dev/null) && "$$python" -c "$$headers" || managed=--managed-python; \
{ { $(UV) sync --locked $$managed --no-default-groups $(1) 2>&1; echo $$? >&3; } \
  | grep -v '^ [-+~] ' >&2; } 3>&1 | { read -r code; exit "$$code"; }
endef

$(SYNCED): pyproject.toml uv.lock .python-version | $(filter .uv/bin/uv,$(UV))
	$(call sync,--group dev --group onnx --group tensorboard --group $(MXNET))
	@rm -f .venv/.synced-* && touch $@

# An environment of its own: docs and dev need different versions of markdown-it-py.
.venv-docs/.synced: export UV_PROJECT_ENVIRONMENT := .venv-docs
.venv-docs/.synced: pyproject.toml uv.lock .python-version | $(filter .uv/bin/uv,$(UV))
	$(call sync,--group docs --group onnx --group cpu)
	@touch $@

# Not in uv.lock: there is only its source, and the build must find MXNet installed, or it leaves MXNet out.
# HOROVOD_WITHOUT_MPI=0 builds it for mpirun, too.
export HOROVOD_WITHOUT_MPI ?= 1
horovod: env
	$(UV) pip install --quiet --python $(PYTHON) setuptools==69.5.1 wheel==0.48.0
	HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
	  $(UV) pip install --python $(PYTHON) --no-build-isolation horovod==0.28.1 cloudpickle==3.1.2

# The first python3 on PATH that has either venv with ensurepip (which Debian splits off) or pip installs uv.
.uv/bin/uv:
	@rm -rf .uv; IFS=:; for dir in $$PATH; do \
	  py="$$dir/python3"; \
	  if "$$py" -c 'import sys, venv, ensurepip; exit(sys.version_info < (3, 8))' 2>/dev/null; then \
	    "$$py" -m venv .uv && .uv/bin/python -m pip install --quiet "uv==$(strip $(UV_VERSION))"; exit; \
	  elif "$$py" -c 'import sys, pip; exit(sys.version_info < (3, 8))' 2>/dev/null; then \
	    "$$py" -m pip install --quiet --target .uv "uv==$(strip $(UV_VERSION))"; exit; \
	  fi; \
	done; \
	echo "error: no python3 (3.8 or newer) with venv or pip found: install one (Debian, Ubuntu:" \
	  "apt install python3-venv) or uv itself (0.8 or newer)" >&2; exit 1
