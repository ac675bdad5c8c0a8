"""From 2D image weights and labelled clouds to a published checkpoint."""
