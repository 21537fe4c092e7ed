"""Ask the SageMaker endpoint for the probability of each label."""
