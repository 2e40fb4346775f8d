"""Image generation from options; the command is `python -m dsd.generate`."""
