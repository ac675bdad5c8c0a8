"""Offline: 2D image weights in, a finetuned and published 3D model out. Never imported by the service."""
