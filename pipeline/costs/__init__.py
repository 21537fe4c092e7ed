"""What the pipeline costs on AWS by list price, compared with the baseline design."""
