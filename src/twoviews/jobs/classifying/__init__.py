"""A classifier on an encoder, and what it says of other images."""
