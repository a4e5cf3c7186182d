"""From images to a trained encoder, resumed and distilled."""
