"""Projection onto Boolean threshold functions."""
