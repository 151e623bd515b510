"""PV prefixes of the simulated beamline."""

DETECTOR = "SIM:EIG:"
STAGE = "SIM:STAGE:"
SHUTTER = "SIM:SHUTTER"
