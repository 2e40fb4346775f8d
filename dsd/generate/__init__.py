"""Options in, images out; `python -m dsd.generate`."""
