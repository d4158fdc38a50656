"""Measuring weights on held-out photos: samples in, tables and a picture sheet out."""
