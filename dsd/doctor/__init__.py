"""Whether the project runs on this machine; `python -m dsd.doctor`."""
