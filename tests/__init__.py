"""A package: one of this name that a dependency of the SageMaker SDK installs would be found instead."""
