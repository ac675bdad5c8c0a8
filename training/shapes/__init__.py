"""Shapes that nobody scanned or drew: random programs of primitives, put together as made things are, by which a net can learn to
tell bodies apart before it sees a labelled cloud.

`primitives`: points on one body; `programs`: what the shapes of a class have in common, and one of them; data.kind `generated` makes
clouds of them when they are asked for (training.datasets.generated). In the spirit of formula-driven supervision (Kataoka et al.,
FractalDB, ACCV 2020) and of procedural programs as training data (Chen et al., Learning 3D Representations from Procedural 3D
Programs, 2024); the programs are our own.
"""
