"""From an encoder and labels to a verdict, and several runs side by side."""
