"""Near duplicates, outliers and suspect labels of a collection."""
