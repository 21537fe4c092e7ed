# `make` lists the targets.
# Recipes are for a POSIX shell and GNU Make 3.81, which macOS has.
BIN := .venv/bin
# What is given on the command line reaches every program, also those of $(shell …), so make must not expand it.
as_given = $(eval override $(1) := $$(value $(1)))
$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(call as_given,$(name))))
PLATFORM := $(shell uname -sm)
ifeq ($(filter $(subst $() ,/,$(PLATFORM)),Linux/x86_64 Linux/aarch64 Darwin/arm64),)
$(error This project does not run on $(PLATFORM), only on Linux (x86-64 or arm64) and on Macs with Apple silicon. On Windows, use WSL 2)
endif
# uv from PATH if there is one, otherwise a copy in .local.
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.local/uv/bin/uv)
# sam build looks for the functions' runtime, python3.13, on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export SAM_CLI_TELEMETRY := 0
# sam reads AWS_DEFAULT_REGION only; the AWS CLI prefers AWS_REGION, and so do all commands here.
ifdef AWS_REGION
export AWS_DEFAULT_REGION := $(value AWS_REGION)
endif
# Stored bytecode halves the start-up time of every command.
unexport PYTHONDONTWRITEBYTECODE

STAGE ?= dev
ARCHITECTURE ?= arm64
# What users give. Recipes take it from the environment and in quotes, so that neither make nor the shell expands it.
GIVEN := PHOTOS DATA PREFIX BURST STACK RUNS ONLY SAMPLE FRESH BENCH STAGE ARCHITECTURE ENDPOINT BASELINE PARAMETERS \
  STUDIO KMS_KEY REPOSITORY OWNER_ID REPOSITORY_ID PROVIDER CLOUDFORMATION_ROLE PERMISSIONS_BOUNDARY CONTAINERS CI
$(foreach name,$(GIVEN),$(call as_given,$(name)))
export $(GIVEN)
# zsh passes `~` on in PHOTOS=~/…
expand = case "$$$(1)" in "~/"*) $(1)=$$HOME/$${$(1)\#"~/"};; esac;
# A typo such as STAGE=production must not create a stack.
require_stage = case "$$STAGE" in dev | prod) ;; *[!a-z0-9-]* | "") false ;; review*) ;; *) false ;; esac || \
  { echo "No such stage: $$STAGE. Use dev, prod, or review followed by letters and digits, such as review1" >&2; exit 1; };

.DEFAULT_GOAL := help
.PHONY: help setup demo up down drift traffic replay backfill train test unit verify fuzz mutation lint audit validate requirements format build \
  sagemaker roles github deploy destroy bench docs pictures

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready  ## install everything into .venv

.venv/.ready: pyproject.toml uv.lock .python-version | $(UV)
	@echo "Installing into .venv (the first time takes a minute or two) …"
	@$(UV) sync --locked --quiet
	@touch $@

.local/uv/bin/uv:
	@echo "Fetching uv …"
	@python3 -m venv .local/uv && .local/uv/bin/pip install --quiet uv==$(UV_VERSION)

sagemaker: setup  ## install the SageMaker SDK too, for `scones train --on sagemaker` (1 GB)
	@$(UV) sync --locked --quiet --extra sagemaker

demo: setup  ## send photos through the whole stack on this machine [PHOTOS=folder]
	@$(call expand,PHOTOS) $(BIN)/scones demo $${PHOTOS:+--photos "$$PHOTOS"}

up: setup  ## start the whole stack on this machine [CONTAINERS=1: in Lambda's images, also for `sam local invoke`]
	@$(BIN)/scones up $${CONTAINERS:+--for-containers}

down: setup  ## stop the stack that `make up` started
	@$(BIN)/scones down

drift: setup  ## rehearse drift detection on the running stack: a day that goes wrong at noon
	@$(BIN)/scones drift

# By default, the local stack; STACK=scones-unlimited-dev is one in AWS.
STACK_OPTION = $${STACK:+--stack "$$STACK"}

traffic: setup  ## load-test a stack, and account for every photo [BURST=100] [STACK=name in AWS]
	@$(BIN)/scones traffic --burst "$${BURST:-100}" $(STACK_OPTION)

replay: setup  ## reprocess the photos in a stack's failed queue [STACK=name in AWS]
	@$(BIN)/scones replay $(STACK_OPTION)

backfill: setup  ## process existing photos in a stack's bucket, PREFIX=archive/… or uploads/… [STACK=name in AWS]
	@$(BIN)/scones backfill "$$PREFIX" $(STACK_OPTION)

TRAINED = $${SCONES_HOME:-.local}

train: setup  ## train your own model, which `make demo` and `make up` then use [DATA=folder/<label>/*, or an archive]
	@$(call expand,DATA) $(BIN)/scones data $${DATA:+--source "$$DATA"} --out "$(TRAINED)/data"
	@$(BIN)/scones train --data "$(TRAINED)/data" --out "$(TRAINED)/model"
	@$(BIN)/scones evaluate --model "$(TRAINED)/model" --data "$(TRAINED)/data" --out "$(TRAINED)/evaluation"

# Outside tests/unit, each worker starts its own stack and gets whole files.
run_tests = $(BIN)/python -m pytest -n logical $(1) tests/unit \
  && $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(1) tests/integration tests/e2e

test: setup  ## run all tests: unit, integration, end-to-end
	@$(call run_tests)

unit: setup  ## run the unit tests
	@$(BIN)/python -m pytest -n logical tests/unit

verify: export RELIABILITY_FIGURES = .local/reliability/counts.jsonl
verify: setup  ## run all tests including the long ones (two hours, most of it mutations), and update docs/reliability.md
	@rm -rf .local/reliability
	@$(call run_tests,-m "")
	@$(MAKE) --no-print-directory fuzz
	@$(UV) run --quiet --no-sync --with libfaketime==3.0.1 python -m tests.environments
	@$(MAKE) --no-print-directory mutation FRESH=1
	@$(BIN)/python -m docs.reliability

fuzz: setup  ## fuzz serialize with files that reach new code [RUNS=50000]
	@$(UV) run --quiet --no-sync --with atheris==3.1.0 python -m tests.fuzz "$${RUNS:-50000}"

# mutmut is used for its mutations only, so it is no dependency of the project.
mutation: setup tests/validators/node_modules/.ready  ## change the code, templates and state machines, and see whether tests notice [ONLY="functions review"] [SAMPLE=0.1] [FRESH=1]
	@$(UV) run --quiet --no-sync --with mutmut==3.8.1 python -m tests.mutation $$ONLY \
	  $${SAMPLE:+--sample "$$SAMPLE"} $${FRESH:+--fresh}

lint: setup  ## check style, types, imports and templates
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/cfn-lint template.yaml model/roles.yaml events/subscriber.yaml .github/oidc.yaml
	@AWS_DEFAULT_REGION=us-east-1 $(BIN)/sam validate --lint

# Each tool in its own environment, because checkov pins many of our dependencies to other versions.
audit: setup  ## check security: code, templates, workflows, known vulnerabilities of dependencies; and validate
	@$(UV) tool run --quiet bandit@1.9.4 --quiet --configfile pyproject.toml --recursive functions model pipeline local
	@$(UV) tool run --quiet checkov@3.3.30 --config-file .checkov.yaml
	@$(UV) tool run --quiet zizmor@1.32.0 --quiet --offline --min-severity medium .github
	@found=$$($(UV) audit --locked 2>&1) && echo "$$found" || { echo "$$found" >&2; \
	  case $$found in *"error sending request"*) echo "Vulnerabilities were not checked: osv.dev is unreachable." >&2;; *) false;; esac; }
	@$(MAKE) --no-print-directory validate

# The UV variable tells the tests which uv runs the policy linter.
validate: setup tests/validators/node_modules/.ready  ## check state machines and IAM policies with independent validators
	@UV=$(abspath $(UV)) $(BIN)/python -m pytest tests/validators

tests/validators/node_modules/.ready: tests/validators/package-lock.json
	@command -v npm >/dev/null || { echo "make validate needs Node.js 20 or later, with npm: https://nodejs.org" >&2; exit 1; }
	@npm ci --prefix tests/validators --silent
	@touch $@

requirements: setup  ## write the functions' requirements, with hashes, from uv.lock
	@for function in classify filter monitor serialize; do $(UV) export --quiet --locked --only-group $$function \
	  --no-annotate --no-header --output-file functions/$$function/requirements.txt >/dev/null || exit; done

format: setup  ## format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

# Stages other than dev and prod use the settings of `review` in samconfig.toml, with their own name and tag.
SAM_STAGE = --config-env $(or $(filter dev prod,$(STAGE)),review)
# sam verifies hashes only of wheels for this machine, so those for another one come from here, verified.
PIP_DOWNLOAD = $(BIN)/python -m pip download --quiet --disable-pip-version-check --require-hashes --dest .aws-sam/wheels \
  $(addprefix --requirement=,$(wildcard functions/*/requirements.txt))
WHEELS = $(PIP_DOWNLOAD) && $(PIP_DOWNLOAD) --only-binary=:all: --python-version=3.13 --implementation=cp \
  --platform="manylinux_2_28_$$PROCESSOR" --platform="manylinux2014_$$PROCESSOR"
# Includes bytecode, because Lambda cannot store it: compiling would be a third of serialize's cold start.
SAM_BUILD = $(BIN)/python -m local.build_source .aws-sam/source "$$ARCHITECTURE" \
  && PROCESSOR=$$(echo "$$ARCHITECTURE" | sed s/arm64/aarch64/) && $(WHEELS) \
  && PIP_NO_INDEX=1 PIP_FIND_LINKS=.aws-sam/wheels $(BIN)/sam build $(SAM_STAGE) \
       --config-file "$$PWD/samconfig.toml" --template .aws-sam/source/template.yaml \
  && for function in .aws-sam/build/*Function; do $(BIN)/python -m compileall -q --invalidation-mode unchecked-hash \
       -s "$$function" -p /var/task "$$function" || exit; done

build: setup  ## build the functions for Lambda [ARCHITECTURE=arm64|x86_64]
	@$(SAM_BUILD)

roles: setup  ## once per account: create the role, the policy and the bucket for SageMaker [STUDIO="vpc-… subnet-…,subnet-…"] [KMS_KEY=arn:…]
	@set -- $${KMS_KEY:+"KmsKeyArn=$$KMS_KEY"} \
	  $${STUDIO:+Studio=yes "StudioVpcId=$${STUDIO%% *}" "StudioSubnetIds=$${STUDIO##* }"}; \
	$(BIN)/sam deploy --config-file "$$PWD/samconfig.toml" --config-env roles --template model/roles.yaml \
	  $${1:+--parameter-overrides "$$@"}

github: setup  ## once per stage: create the roles for deployment from GitHub, REPOSITORY=owner/name [OWNER_ID=… REPOSITORY_ID=…] [STAGE=dev|prod|review] [PROVIDER=arn:…] [ENDPOINT=name]
	@$(require_stage) $(BIN)/sam deploy --config-file "$$PWD/samconfig.toml" --config-env github --template .github/oidc.yaml \
	  --stack-name "scones-unlimited-github-$$STAGE" --parameter-overrides "Repository=$$REPOSITORY" "Stage=$$STAGE" \
	  $${REPOSITORY_ID:+"OwnerId=$$OWNER_ID" "RepositoryId=$$REPOSITORY_ID"} $${PROVIDER:+"ProviderArn=$$PROVIDER"} \
	  $${ENDPOINT:+"EndpointName=$$ENDPOINT"}

deploy: setup  ## deploy to AWS, for the endpoint in deployment.json [ENDPOINT=another name] [STAGE=dev|prod|review1] [BASELINE=s3://…] [PARAMETERS="Name=value …"]
	@$(require_stage) case "$$PARAMETERS" in *Architecture=*) \
	  echo 'Give ARCHITECTURE=… instead of PARAMETERS="Architecture=…", which is not a parameter' >&2; exit 1;; esac; \
	endpoint=$$($(BIN)/scones parameters --stage "$$STAGE" $${ENDPOINT:+--endpoint "$$ENDPOINT"}) \
	  && $(SAM_BUILD) \
	  && $(BIN)/sam deploy $(SAM_STAGE) --stack-name "scones-unlimited-$$STAGE" --s3-prefix "scones-unlimited-$$STAGE" \
	       --tags "project=scones-unlimited stage=$$STAGE" $${CI:+--no-confirm-changeset} \
	       $${CLOUDFORMATION_ROLE:+--role-arn "$$CLOUDFORMATION_ROLE"} \
	       --parameter-overrides $$endpoint \
	       $${PERMISSIONS_BOUNDARY:+"PermissionsBoundary=$$PERMISSIONS_BOUNDARY"} \
	       $${BASELINE:+"BaselineUri=$$BASELINE"} $${PARAMETERS:+"$$PARAMETERS"} \
	  && $(BIN)/scones activate --stack "scones-unlimited-$$STAGE"

destroy: setup  ## delete everything of a stage in AWS, photos included, after asking [STAGE=dev|prod]
	@$(require_stage) $(BIN)/scones destroy --stage "$$STAGE"

bench: setup  ## measure the project, the baseline design and the floor in one run [BENCH="name --options": another benchmark]
	@$(BIN)/python -m tests.bench

docs: setup  ## generate the diagram of the state machine and the help of the commands
	@$(BIN)/python -m docs.pages

pictures: setup  ## make the pictures in docs/, from everything running in Chromium
	@$(BIN)/python -m docs.pictures
