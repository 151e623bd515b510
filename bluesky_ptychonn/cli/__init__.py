"""The commands of bluesky-ptychonn."""
