"""The review loop: a person says what is in the photos that the model is not sure of."""
