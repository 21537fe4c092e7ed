"""What the pipeline costs on AWS by list price, beside the original's design."""
