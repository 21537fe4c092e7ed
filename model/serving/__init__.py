"""Around the server of `model serve`: an endpoint as SageMaker Runtime shows it, and its data capture."""
