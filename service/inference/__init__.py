"""The Open Inference Protocol, version 2, over HTTP with binary tensors: its requests read, its answers written."""
