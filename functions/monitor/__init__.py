"""Compare what the endpoint captured with the baseline, and publish metrics."""
