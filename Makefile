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
.PHONY: help setup demo up down drift traffic replay backfill train test unit verify fuzz lint audit validate format build \
  sagemaker roles github deploy destroy bench docs pictures

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

sagemaker: setup  ## the SageMaker SDK too, for `scones train --on sagemaker` (a gigabyte)
	@$(UV) sync --locked --quiet --extra sagemaker

demo: setup  ## photos through the whole stack on this machine [PHOTOS=folder]
	@$(BIN)/scones demo $(if $(PHOTOS),--photos "$(PHOTOS)")

up: setup  ## the whole stack on this machine, to play with [CONTAINERS=1: in Lambda's images, also for `sam local invoke`]
	@$(BIN)/scones up $(if $(CONTAINERS),--for-containers)

down: setup  ## end what `make up` started
	@$(BIN)/scones down

drift: setup  ## rehearse on the running stack: a day in a minute that goes wrong half-way
	@$(BIN)/scones drift

# Of the local stack; STACK=scones-unlimited-dev is one in AWS.
OF_STACK = $(if $(STACK),--stack "$(STACK)")

traffic: setup  ## photos through a stack, each accounted for [BURST=100] [STACK=name in AWS]
	@$(BIN)/scones traffic --burst $(or $(BURST),100) $(OF_STACK)

replay: setup  ## what failed through a stack again [STACK=name in AWS]
	@$(BIN)/scones replay $(OF_STACK)

backfill: setup  ## photos that are there already through a stack, PREFIX=archive/… or uploads/… [STACK=name in AWS]
	@$(BIN)/scones backfill "$(PREFIX)" $(OF_STACK)

train: setup  ## a model of your own, which `make demo` and `make up` then use [DATA=folder/<label>/*, or an archive]
	@$(BIN)/scones data $(if $(DATA),--source "$(DATA)") --out .local/data
	@$(BIN)/scones train --data .local/data --out .local/model
	@$(BIN)/scones evaluate --model .local/model --data .local/data --out .local/evaluation

# The unit tests start nothing; of the others each worker has a stack of its own, and takes whole files.
rings = $(BIN)/python -m pytest -n logical $(1) tests/unit \
  && $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(1) tests/integration tests/e2e

test: setup  ## all tests: unit, integration, end to end
	@$(call rings)

unit: setup  ## the unit tests alone
	@$(BIN)/python -m pytest -n logical tests/unit

verify: setup  ## all tests, the long ones too (20 minutes), and docs/reliability.md from what they counted
	@rm -rf .local/reliability
	@$(call rings,-m "")
	@$(MAKE) --no-print-directory fuzz
	@$(BIN)/python -m docs.reliability

fuzz: setup  ## search for files that serialize has no answer to, led by the code that they reach [RUNS=50000]
	@$(UV) run --quiet --no-sync --with atheris==3.1.0 python -m tests.fuzz $(or $(RUNS),50000)

lint: setup  ## style, types, imports, template
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/cfn-lint template.yaml model/roles.yaml events/subscriber.yaml .github/oidc.yaml
	@AWS_DEFAULT_REGION=us-east-1 $(BIN)/sam validate --lint

# Each in an environment of its own, as checkov pins half of ours to other versions.
audit: setup  ## security: the code, the templates, the workflows, known vulnerabilities of what is locked; and validate
	@$(UV) tool run --quiet bandit@1.9.4 --quiet --configfile pyproject.toml --recursive functions model pipeline local
	@$(UV) tool run --quiet checkov@3.3.30 --config-file .checkov.yaml
	@$(UV) tool run --quiet zizmor@1.32.0 --quiet --offline --min-severity medium .github
	@found=$$($(UV) audit --locked 2>&1) && echo "$$found" || { echo "$$found" >&2; \
	  [[ $$found == *"error sending request"* ]] && echo "Vulnerabilities were not looked up: osv.dev is out of reach." >&2; }
	@$(MAKE) --no-print-directory validate

# The UV variable tells the tests which uv runs the policy linter.
validate: setup tests/validators/node_modules/.ready  ## state machines and IAM policies, by independent validators
	@UV=$(UV) $(BIN)/python -m pytest tests/validators

tests/validators/node_modules/.ready: tests/validators/package-lock.json
	@command -v npm >/dev/null || { echo "make validate needs Node.js 20 or later, with npm: https://nodejs.org" >&2; exit 1; }
	@npm ci --prefix tests/validators --silent
	@touch $@

format: setup  ## bring the code into shape
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

# Any other stage's stack is as a review's in samconfig.toml, with a name and a tag of its own.
SAM_STAGE = --config-env $(or $(filter dev prod,$(STAGE)),review)
# With bytecode, which Lambda cannot keep: compiling would be a third of serialize's cold start.
SAM_BUILD = $(BIN)/sam build $(SAM_STAGE) --parameter-overrides Architecture=$(ARCHITECTURE) \
  && for function in .aws-sam/build/*Function; do $(BIN)/python -m compileall -q --invalidation-mode unchecked-hash \
       -s "$$function" -p /var/task "$$function" || exit; done

build: setup  ## the functions, as Lambda gets them [ARCHITECTURE=arm64|x86_64]
	@$(SAM_BUILD)

roles: setup  ## once an account: the role, the policy and the bucket for SageMaker [STUDIO="vpc-… subnet-…,subnet-…"]
	@$(BIN)/sam deploy --config-file "$(CURDIR)/samconfig.toml" --config-env roles --template model/roles.yaml \
	  $(if $(STUDIO),--parameter-overrides Studio=yes StudioVpcId=$(word 1,$(STUDIO)) StudioSubnetIds=$(word 2,$(STUDIO)))

github: setup  ## once a stage: the roles with which GitHub deploys it, REPOSITORY=owner/name [OWNER_ID=… REPOSITORY_ID=…] [STAGE=dev|prod|review] [PROVIDER=arn:…]
	@$(BIN)/sam deploy --config-file "$(CURDIR)/samconfig.toml" --config-env github --template .github/oidc.yaml \
	  --stack-name scones-unlimited-github-$(STAGE) --parameter-overrides Repository=$(REPOSITORY) Stage=$(STAGE) \
	  $(if $(REPOSITORY_ID),OwnerId=$(OWNER_ID) RepositoryId=$(REPOSITORY_ID)) $(if $(PROVIDER),ProviderArn=$(PROVIDER))

deploy: setup  ## to AWS, for the endpoint in deployment.json [ENDPOINT=name of another] [STAGE=dev|prod|review1] [BASELINE=s3://…] [PARAMETERS="Name=value …"]
	@asked=$$($(BIN)/scones parameters --stage $(STAGE) $(if $(ENDPOINT),--endpoint $(ENDPOINT))) \
	  && mapfile -t parameters <<< "$$asked" \
	  && $(SAM_BUILD) \
	  && $(BIN)/sam deploy $(SAM_STAGE) --stack-name scones-unlimited-$(STAGE) \
	       --tags "project=scones-unlimited stage=$(STAGE)" $(if $(CI),--no-confirm-changeset) \
	       $(if $(CLOUDFORMATION_ROLE),--role-arn $(CLOUDFORMATION_ROLE)) \
	       --parameter-overrides Architecture=$(ARCHITECTURE) "$${parameters[@]}" \
	       $(if $(BASELINE),BaselineUri=$(BASELINE)) $(PARAMETERS)

destroy: setup  ## all that was made in AWS for a stage, photos included, after asking [STAGE=dev|prod]
	@$(BIN)/scones destroy --stage $(STAGE)

bench: setup  ## the project, the original's design and the floor, measured in one run [BENCH="name --options": another]
	@$(BIN)/python -m tests.bench $(or $(BENCH),aims)

docs: setup  ## what the pages take from the code: the state machine's picture, the commands' help
	@$(BIN)/python -m docs.pages

pictures: setup  ## the pictures in docs/, by running everything and looking at it in Chromium
	@$(BIN)/python -m docs.pictures
