"""Data sets of labelled photos: built from CIFAR-100, folders and reviews, and staged to S3."""
