"""The commands for a deployed stack, a module each: options, one call, output."""

COMMANDS = {
    "monitor": "Report on an endpoint's captured data: confidence, accuracy and drift.",
    "review": "Label the photos that need review, with one key each.",
    "replay": "Retry each message in the failed queue once.",
    "activate": "Wait until uploads start executions, then classify the photos uploaded before.",
    "backfill": "Classify the photos under a prefix of the upload bucket.",
    "traffic": "Send photos through a stack and report the outcome of every one of them.",
    "forget": "Delete a photo and everything derived from it.",
    "doctor": "Check this machine and the AWS account for what would make a deployment fail.",
    "cost": "Estimate the AWS bill by list price, and compare it with the baseline design.",
    "destroy": "Delete what this project created in AWS and on this machine, including the photos.",
}
"""Name and summary, in the order in which a user meets them, so that ``--help`` need not import them."""
