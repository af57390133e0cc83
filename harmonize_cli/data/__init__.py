"""From a store to batches of tensors."""
