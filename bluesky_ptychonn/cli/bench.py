"""Measure on this machine; figures as JSON with --json.

    bluesky-ptychonn bench stream --size 128 --fps 1000 --seconds 30 --json stream.json
    bluesky-ptychonn bench stream --fps 2000 --seconds 60 --detector bare
    bluesky-ptychonn bench swap --json swap.json
    bluesky-ptychonn bench stitch --field 5
    bluesky-ptychonn bench inference --engine openvino --batches 1,8,32 --json inference.json
    bluesky-ptychonn bench phase-retrieval --json retrieval.json
    bluesky-ptychonn bench phase-retrieval --source star.npz --modes 1 2
    bluesky-ptychonn bench learning --json learning.json
    bluesky-ptychonn bench training --minutes 30 --json training.json
    bluesky-ptychonn bench tuning TRAINING --json tuning.json
    bluesky-ptychonn bench trigger --json trigger.json
    bluesky-ptychonn bench loop --json loop.json
    bluesky-ptychonn bench replay --json replay.json

`stream` runs the whole chain: the detector IOC in its own process sends frames of a simulated sample at the rate asked
for, the edge turns them into phase and stitches them; with --detector bare a process that does nothing but send frames
takes the IOC's place. It fails if a frame is lost, shed or unpaired; never for speed.

`swap` changes model and probe in a stream, back and forth, and offers models that are harmed.

`stitch` measures what a patch costs on its way into the image.

`inference` measures the engines alone: us per frame in batches of 1 to 32, mean and standard deviation over 50 runs,
with preparation and copies and without, for the networks of the paper and for ours.

`phase-retrieval` runs every method on one simulated scan, from the exact probe and from one 11 % wrong in defocus, and
compares with the truth: likeness (SSIM) against time, resolution, errors. With --source it runs on a recorded scan,
where the error on frames that took no part is what can be asked.

`learning` measures the models that come with the package, and others given by --model, against the frozen test sets and
on a real Siemens star, in ten minutes.

`training` trains the paper's network and ours by either recipe and draws the error against computing time, and against
the number of pairs; `tuning` teaches a trained network a new sample in minutes. Both need hours or tens of minutes.

`trigger` measures what notes each run for the loop: how long a stop document waits for it while the scheduler hangs, or
the journal is locked, and the RunEngine's rate with and without it.

`loop` plays an experiment of 12 simulated scans to the loop, in a quarter of an hour on one core: features that the
model knows, new ones, a defocus that drifts, too little light, too little overlap. It fails if the loop does something
else than it should, and draws the page of plots.

`replay` runs a scan on a beamline of its own and replays it: from Tiled with the detector's file at hand and in blocks
over HTTP, from documents, and from a file; frames per second, and how far each image is from the live one.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from bluesky_ptychonn.cli import (
        bench_inference,
        bench_learning,
        bench_loop,
        bench_replay,
        bench_retrieval,
        bench_stitch,
        bench_stream,
        bench_swap,
        bench_training,
        bench_trigger,
        bench_tuning,
    )

    cases = parser.add_subparsers(
        dest="case",
        required=True,
        metavar="stream|swap|stitch|inference|phase-retrieval|learning|training|tuning|trigger|loop|replay",
    )
    stream = cases.add_parser("stream", help="detector IOC to stitched phase at a frame rate")
    bench_stream.add_arguments(stream)
    stream.set_defaults(measure=bench_stream.run)
    swap = cases.add_parser("swap", help="models and probes changed in a stream")
    bench_swap.add_arguments(swap)
    swap.set_defaults(measure=bench_swap.run)
    stitch = cases.add_parser("stitch", help="patches into the image: us per patch")
    bench_stitch.add_arguments(stitch)
    stitch.set_defaults(measure=bench_stitch.run)
    inference = cases.add_parser("inference", help="the engines alone: us per frame by batch")
    bench_inference.add_arguments(inference)
    inference.set_defaults(measure=bench_inference.run)
    retrieval = cases.add_parser("phase-retrieval", help="every method of phase retrieval: quality and time")
    bench_retrieval.add_arguments(retrieval)
    retrieval.set_defaults(measure=bench_retrieval.run)
    learning = cases.add_parser("learning", help="the models on the frozen test sets and on a real star")
    bench_learning.add_arguments(learning)
    learning.set_defaults(measure=bench_learning.run)
    training = cases.add_parser("training", help="networks and recipes against computing time and training pairs")
    bench_training.add_arguments(training)
    training.set_defaults(measure=bench_training.run)
    tuning = cases.add_parser("tuning", help="learn a new sample in minutes: what it gives, and what is forgotten")
    bench_tuning.add_arguments(tuning)
    tuning.set_defaults(measure=bench_tuning.run)
    trigger = cases.add_parser("trigger", help="the loop's trigger: what a document waits, what the RunEngine pays")
    bench_trigger.add_arguments(trigger)
    trigger.set_defaults(measure=bench_trigger.run)
    loop = cases.add_parser("loop", help="a scripted experiment: what the loop does about each scan")
    bench_loop.add_arguments(loop)
    loop.set_defaults(measure=bench_loop.run)
    replay = cases.add_parser("replay", help="a recorded scan again: frames/s, and whether the image is the live one")
    bench_replay.add_arguments(replay)
    replay.set_defaults(measure=bench_replay.run)


def run(options: argparse.Namespace) -> int:
    """Measure the case asked for."""
    return options.measure(options)
