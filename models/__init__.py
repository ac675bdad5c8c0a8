"""What training and serving share: reading clouds, voxelizing, sparse nets, checkpoints and the Predictor."""
