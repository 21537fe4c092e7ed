"""Report on the data that an endpoint captured, compared with a baseline."""
