"""A Dask cluster on SLURM, for ``wsi tile … --scheduler``: python deploy/dask_slurm.py [--show].

Needs ``pip install dask-jobqueue``. ``--show`` prints the job script and starts nothing.
"""

import sys
import time

from dask_jobqueue import SLURMCluster


def main() -> None:
    cluster = SLURMCluster(
        cores=8, processes=8, memory="16GB", walltime="12:00:00",
        job_extra_directives=["--job-name=wsi"],
    )  # fmt: skip
    if "--show" in sys.argv:
        sys.stdout.write(cluster.job_script())
        return
    cluster.scale(jobs=5)
    sys.stdout.write(f"--scheduler {cluster.scheduler_address}\n")
    sys.stdout.flush()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
