"""What an endpoint captured, against the baseline: the figures, the plots, and the page that shows them."""
