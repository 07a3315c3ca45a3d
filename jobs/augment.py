"""Draw what rare labels lack: `netdiff augment` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/augment.py ENCODED OUT --to-balance ...
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["augment", *sys.argv[1:]]))
