"""`python -m netdiff_ray.cli`."""

import sys

from netdiff_ray.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
