"""The Lambda functions, one folder each. A function imports no other module of this project."""
