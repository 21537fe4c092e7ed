"""Around the server of `scones serve`: an endpoint as SageMaker Runtime shows it, and its data capture."""
