"""Encode, train, generate, evaluate: `netdiff pipeline` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/pipeline.py CAPTURES OUT --heldout H ...
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["pipeline", *sys.argv[1:]]))
