"""How right a model is: the figures, their formulas, and the page that shows them."""
