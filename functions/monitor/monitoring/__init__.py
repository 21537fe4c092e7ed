"""What the monitor function and ``python -m model monitor`` share; it needs nothing but Pillow and boto3."""
