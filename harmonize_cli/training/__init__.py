"""Pre-training: config, data order, optimiser, loop, checkpoints, metrics."""
