"""What the README's tables of speed and memory are made by; `python -m train.bench`."""
