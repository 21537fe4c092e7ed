"""Whether a function can run in Lambda's own runtime on this machine."""

import shutil
import subprocess

IMAGES = ("public.ecr.aws/lambda/python:3.13", "public.ecr.aws/lambda/python:3.13-x86_64")
"""What the emulator runs a function in, and `sam local invoke`."""


def missing() -> str | None:
    """What is missing to run a function in its container, if anything."""
    if not shutil.which("docker"):
        return "no docker on the path"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine runs"
    for image in IMAGES:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            return f"the image {image} is not here: docker pull {image}"
    return None
