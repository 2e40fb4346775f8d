"""Check what runs on this machine; the command is `python -m dsd.doctor`."""
