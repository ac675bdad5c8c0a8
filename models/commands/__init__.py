"""The commands of `fip` that need neither training nor the service; click alone at the top of each module."""
