"""The graph of constraints: its nodes, what is rewritten, and its two colours."""
