"""Labelled photos: from CIFAR-100, a folder or reviewers to a data set on disk and in S3."""
