"""From labelled photos to a model: fetching and listing them, fitting the head, choosing the threshold."""
