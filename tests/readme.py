"""The README's commands, and how each is proven."""

import re

from tests.conftest import ROOT

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [
    re.sub(r"\s{2,}#.*$", "", line)
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.replace("\\\n", " ").splitlines()
]

CLONE = "git clone <this repository> scones-unlimited && cd scones-unlimited"
DEMOS = (
    "make demo",
    "make demo PHOTOS=~/Pictures/couriers",
    ".venv/bin/scones predict ~/Pictures/couriers",
)
TRAIN, UP, DRIFT, DOWN = ("make train DATA=~/Pictures/ours", "make up", "make drift", "make down")

ROLES, DEPLOY = "make roles", "make deploy STAGE=dev"
"""Run as they stand, but on the emulator."""
IMAGE, MODEL = ".venv/bin/scones image --push", ".venv/bin/scones deploy"
"""Run with --dry-run, because there is no SageMaker or ECR; test_sagemaker_lifecycle.py runs them on moto."""
UPLOAD = "aws s3 cp photo.jpg s3://<UploadBucketName>/uploads/"
"""Not run: the AWS CLI is not the project's. The photo is put there all the same."""
DESTROY = "make destroy STAGE=dev"
"""What it calls is run on moto, where there is nothing of a stage dev."""

KNOWN = (CLONE, *DEMOS, TRAIN, UP, DRIFT, DOWN, ROLES, IMAGE, MODEL, DEPLOY, UPLOAD, DESTROY)
