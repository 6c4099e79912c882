"""Tensors → logits; reads like section 4 of the paper."""
