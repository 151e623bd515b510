"""The bare stream, an edge and a client, each in a process of its own: `World` with a codec."""

import signal
import sys

from edge_world import client, edge

from bluesky_ptychonn.simulation.bare_stream import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"source": main, "edge": edge, "client": client}[sys.argv[1]](*sys.argv[2:])
