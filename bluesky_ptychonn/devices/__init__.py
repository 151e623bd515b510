"""Ophyd devices: detector, stage, edge."""
