"""From files to one uint8 array: which items exist, guarded decoding, the corpus, order and batches."""
