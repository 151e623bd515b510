"""Windows on the stitched image."""
