"""From an encoder and images to embeddings."""
