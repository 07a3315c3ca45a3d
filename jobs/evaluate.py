"""Judge synthetic against real traffic: `netdiff evaluate` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/evaluate.py --real R --synthetic S --out DIR
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
