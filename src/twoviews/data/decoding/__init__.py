"""From the bytes of an image to values, or the reason why not."""
