"""A session of its own process which notes runs in a journal: ``python loop_documents.py JOURNAL < documents``.

Each line of standard input is a JSON list of name and document; what became of all so far answers each line.
"""

import json
import sys

from bluesky_ptychonn.callbacks.retrain import RetrainTrigger

if __name__ == "__main__":
    trigger = RetrainTrigger(sys.argv[1])
    for line in sys.stdin:
        name, doc = json.loads(line)
        trigger(name, doc)
        print(json.dumps(trigger.counts), flush=True)
    sys.exit(0 if trigger.close(30.0) else 1)
