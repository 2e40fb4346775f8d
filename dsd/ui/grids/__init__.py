"""The Grids tab."""
