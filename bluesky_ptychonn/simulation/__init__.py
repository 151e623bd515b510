"""The simulated beamline: real EPICS servers in front of simulated physics."""
