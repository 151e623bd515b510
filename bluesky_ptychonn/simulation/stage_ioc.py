"""Stage IOC: motor records ``Y`` and ``X``, trajectory controller ``Prof1:`` and position table ``Pcap1:`` over CA.

``python -m bluesky_ptychonn.simulation.stage_ioc DIRECTORY``; EPICS ports come from the environment.
"""

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from caproto import ChannelType
from caproto.asyncio.server import start_server
from caproto.server import PVGroup, pvproperty

from bluesky_ptychonn.simulation.cable import CableOut
from bluesky_ptychonn.simulation.motor_record import Motor
from bluesky_ptychonn.simulation.names import STAGE
from bluesky_ptychonn.simulation.position_table import PositionTable
from bluesky_ptychonn.simulation.profile_move import ProfileMove
from bluesky_ptychonn.simulation.stage import Stage

READY_NAME = "stage.ready"


LONG: Any = ChannelType.LONG


class Faults(PVGroup):
    """What can be made to go wrong."""

    suppress = pvproperty(value=[-1], dtype=LONG, max_length=256, name="SuppressTrigger")


def records(stage: Stage, directory: Path) -> dict[str, Any]:
    """All records of the IOC by name."""
    motors = (Motor(STAGE + "Y", stage=stage, axis=0), Motor(STAGE + "X", stage=stage, axis=1))
    faults = Faults(STAGE + "Sim:")
    profile = ProfileMove(STAGE + "Prof1:", stage=stage, motors=motors, directory=directory, suppress=faults.suppress)
    table = PositionTable(STAGE + "Pcap1:", stage=stage)
    return {**motors[0].pvdb, **motors[1].pvdb, **faults.pvdb, **profile.pvdb, **table.pvdb}


async def serve(directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    stage = Stage(CableOut(directory))
    for axis in (0, 1):
        stage.settle(axis)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)

    async def announce(async_lib: Any) -> None:
        (directory / READY_NAME).write_text(str(os.getpid()))

    server = asyncio.create_task(
        start_server(records(stage, directory), interfaces=["127.0.0.1"], startup_hook=announce, log_pv_names=False)
    )
    ended = asyncio.create_task(done.wait())
    await asyncio.wait({server, ended}, return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    stage.cable.close()


def main(arguments: list[str] | None = None) -> None:
    """Command line of the stage IOC."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="state directory shared with the detector IOC")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(options.directory))
    logging.shutdown()
    os._exit(0)  # circuits of clients would hold the loop


if __name__ == "__main__":
    main()
