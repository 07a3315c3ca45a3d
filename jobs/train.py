"""Fine-tune an adapter: `netdiff train` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/train.py ENCODED OUT ...
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
