"""The VAE: how it is built and trained; `python -m train.pocket.vae RUN`."""
