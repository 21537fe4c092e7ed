"""A deployed stack, on this machine or in AWS, as commands use it from outside."""
