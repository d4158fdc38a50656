"""Conversion between the PyTorch original's weights and the parameters of this package."""
