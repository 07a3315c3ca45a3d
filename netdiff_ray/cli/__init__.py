"""`netdiff`: one verb per job over the dataclasses of `config`.

arguments    a command line to the configuration of its verb, and the pages of help
results      exit codes, and words for counts
run          the command line as a whole: signals, errors, exit codes
local_verbs  the verbs that run in this process, and what they print
export_verbs the verbs that bring datasets into other tools and before eyes, and what they print
job_verbs    the verbs that run on Ray, and what they print
"""

from netdiff_ray.cli.arguments import VERBS, parsed
from netdiff_ray.cli.run import main

__all__ = ["VERBS", "main", "parsed"]
