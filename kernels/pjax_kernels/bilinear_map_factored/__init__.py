"""Any bilinear map whose outputs are dot products, with copies that are combinations of a few operands."""
