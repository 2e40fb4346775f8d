"""Vision-language models: a question and images in, words out."""
