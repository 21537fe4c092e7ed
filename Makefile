# One word a habit. `make` alone lists them.
SHELL := bash
BIN := .venv/bin
# uv from the path where there is one, otherwise our own.
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.local/uv/bin/uv)
# sam build looks for the functions' runtime, python3.13, on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export SAM_CLI_TELEMETRY := 0
# Everything starts in half the time with its bytecode kept.
unexport PYTHONDONTWRITEBYTECODE

STAGE ?= dev
ARCHITECTURE ?= arm64

.DEFAULT_GOAL := help
.PHONY: help setup demo up down drift train test lint format build deploy destroy bench

help:  ## list these
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready  ## install everything into .venv

.venv/.ready: pyproject.toml uv.lock .python-version | $(UV)
	@echo "Installing into .venv (the first time takes a minute or two) …"
	@$(UV) sync --locked --quiet
	@touch $@

.local/uv/bin/uv:
	@echo "Fetching uv …"
	@python3 -m venv .local/uv && .local/uv/bin/pip install --quiet uv==$(UV_VERSION)

demo: setup  ## photos through the whole stack on this machine [PHOTOS=folder]
	@$(BIN)/python -m local demo $(if $(PHOTOS),--photos "$(PHOTOS)")

up: setup  ## the whole stack on this machine, to play with [CONTAINERS=1: also for `sam local invoke`]
	@$(BIN)/python -m local up $(if $(CONTAINERS),--for-containers)

down: setup  ## end what `make up` started
	@$(BIN)/python -m local down

drift: setup  ## rehearse on the running stack: a day in a minute that goes wrong half-way
	@$(BIN)/python -m local drift

train: setup  ## a model of your own, which `make demo` and `make up` then use [DATA=folder/<label>/*, or an archive]
	@$(BIN)/python -m model data $(if $(DATA),--source "$(DATA)") --out .local/data
	@$(BIN)/python -m model train --data .local/data --out .local/model
	@$(BIN)/python -m model evaluate --model .local/model --data .local/data --out .local/evaluation

test: setup  ## all tests: unit, integration, end to end
	@$(BIN)/python -m pytest

lint: setup  ## style, types, template
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/cfn-lint template.yaml
	@AWS_DEFAULT_REGION=us-east-1 $(BIN)/sam validate --lint

format: setup  ## bring the code into shape
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

build: setup  ## the functions, as Lambda gets them [ARCHITECTURE=arm64|x86_64]
	@$(BIN)/sam build --config-env $(STAGE) --parameter-overrides Architecture=$(ARCHITECTURE)

deploy: require-endpoint build  ## to AWS: make deploy ENDPOINT=name [STAGE=dev|prod] [CAPTURES=s3://…] [BASELINE=s3://…]
	@$(BIN)/sam deploy --config-env $(STAGE) --parameter-overrides Architecture=$(ARCHITECTURE) EndpointName=$(ENDPOINT) \
	  $(if $(CAPTURES),CaptureUri=$(CAPTURES)) $(if $(BASELINE),BaselineUri=$(BASELINE))

.PHONY: require-endpoint
require-endpoint:
	@test -n "$(ENDPOINT)" || { echo "Which endpoint? make deploy ENDPOINT=name [STAGE=dev|prod]" >&2; exit 2; }

destroy: setup  ## what `make deploy` made, photos included [STAGE=dev|prod]
	@$(BIN)/python -m model destroy --stack scones-unlimited-$(STAGE)

bench: setup  ## measure, and write down what was found [BENCH="name --options"]
	@$(BIN)/python -m tests.bench $(or $(BENCH),--help)
