"""An encoder taken elsewhere: a file a format, each a folder with a model card; and the way to the Hugging Face Hub."""
