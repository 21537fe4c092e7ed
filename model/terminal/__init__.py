"""The command line's groups, errors and progress bars."""
