"""Sparse convolution: tensors, kernel maps, layers and the engines that run them."""
