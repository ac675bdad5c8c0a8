"""Engines that run a sparse convolution. Today: `torch`, which needs nothing but PyTorch and runs everywhere."""
