"""The embedded judge: how it is built and trained; `python -m train.pocket.judge RUN`."""
