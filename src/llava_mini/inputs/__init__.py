"""Files → tensors."""
