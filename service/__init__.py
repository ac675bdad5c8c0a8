"""Online: an HTTP service around models.predictor. Never imports training."""
