"""The inference server of `scones serve`, with SageMaker Runtime's endpoint route and data capture."""
