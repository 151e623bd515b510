"""Retrieval, learning and the loop after the scan."""
