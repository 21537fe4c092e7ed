"""Analysis shared by the monitor function and ``scones monitor``; it needs only Pillow and boto3."""
