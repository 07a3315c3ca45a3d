"""Draw flows into a pcap dataset: `netdiff generate` on the cluster that runs this job.

ray job submit --working-dir . -- python jobs/generate.py ADAPTER OUT ...
"""

import sys

from netdiff_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
