"""Preparation of a corpus: raw text -> filtered, deduplicated, redacted documents on disk.

The stages run on datatrove, whose executors serve one machine, SLURM and Ray alike. Ours are the
order of the stages, what datatrove lacks, the manifest and the statistics.
"""

import os

# datatrove shows bars of tqdm, which reads this when it is first imported. Ours are of rich.
os.environ.setdefault("TQDM_DISABLE", "1")
