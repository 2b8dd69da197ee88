"""Any bilinear map whose outputs are dot products of selected entries, in consensus form."""
