"""The streaming service at the edge."""
