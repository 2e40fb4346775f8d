"""Vision-language models that answer questions about images."""
