"""Encode a collection of captures: `netdiff encode` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/encode.py CAPTURES OUT ...
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
