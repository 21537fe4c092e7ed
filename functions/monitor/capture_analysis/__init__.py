"""What the monitor function and ``scones monitor`` share; it needs nothing but Pillow and boto3."""
