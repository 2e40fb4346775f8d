"""The model: a stock FLUX transformer with a widened input, on a canvas of two frames."""
