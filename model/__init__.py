"""Which vehicle is in a courier's photo: the model, from weights to a served endpoint."""
