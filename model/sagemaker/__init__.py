"""SageMaker and its account: training jobs, the registry, endpoints, and all that is to be deleted."""
