"""What a model does with vision tokens: where attention goes, what their removal costs, what pre-fusion adds."""
