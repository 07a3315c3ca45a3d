"""Pretrain a small base on labelled captures; see `netdiff_ray.pretraining.pretrain`.

python jobs/pretrain.py --data samples/train --heldout samples/heldout --out nano
"""

import sys

from netdiff_ray.pretraining.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
