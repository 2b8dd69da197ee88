"""What an operation is, and the operations of this package."""
