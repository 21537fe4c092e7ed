"""The README's commands, and how tests/e2e/test_readme.py tests each of them."""

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
ACTIVATE = "source .venv/bin/activate"
"""Run before each of the other commands."""
DEMO, OWN_PHOTOS, PREDICT = (
    "make demo",
    "make demo PHOTOS=~/Pictures/couriers",
    "scones predict ~/Pictures/couriers",
)
TRAIN, UP, DRIFT, DOWN = ("make train DATA=~/Pictures/ours", "make up", "make drift", "make down")

ROLES, DEPLOY = "make roles", "make deploy STAGE=dev"
"""Run unchanged, but on the emulator."""
IMAGE, MODEL = "scones image --push", "scones deploy"
"""Run with --dry-run, because there is no SageMaker or ECR; test_sagemaker_lifecycle.py runs them on moto."""
UPLOAD = "aws s3 cp photo.jpg s3://<UploadBucketName>/uploads/"
"""Not run, because the AWS CLI is not a dependency; the test uploads the photo with boto3."""
DESTROY = "make destroy STAGE=dev"
"""Its recipe is run on moto, which has no resources of stage dev."""

PHOTOS = (DEMO, ACTIVATE, OWN_PHOTOS, PREDICT)
KNOWN = (CLONE, *PHOTOS, TRAIN, UP, DRIFT, DOWN, ROLES, IMAGE, MODEL, DEPLOY, UPLOAD, DESTROY)
