"""Why a net answers as it does: distances between its features and those of the image net, how tight its classes are, what units see."""
