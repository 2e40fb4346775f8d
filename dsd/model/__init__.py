"""The model: a stock FLUX transformer, widened, on a canvas of two frames."""
