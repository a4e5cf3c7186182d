"""What vectors are good for: exact search, curation, and which images to label next; sees Embeddings, never images."""
