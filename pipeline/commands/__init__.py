"""The commands for a deployed stack, a module each: options, one call, output."""

COMMANDS = {
    "monitor": "Report on an endpoint's captured data: how sure, how right, and how far from the baseline.",
    "review": "Look at the photos that wait for a person: one key says what is in each.",
    "replay": "Put what stands in the failed queue through again, once each.",
    "backfill": "Put the photos under a prefix of the upload bucket through the pipeline.",
    "traffic": "Send photos through a stack, and account for every one of them.",
    "forget": "Delete a photo, and all that was derived from it.",
    "doctor": "Check this machine and the AWS account for what would make a deployment fail.",
    "cost": "Say what a photo and an idle month cost on AWS, beside the original's design.",
    "destroy": "Delete what this project made, in AWS and on this machine, the photos included.",
}
"""Name and summary, in the order in which a user meets them, so that ``--help`` need not import them."""
