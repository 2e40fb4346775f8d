"""A Hugging Face hub on 127.0.0.1 with tiny random repositories in the published layouts."""
