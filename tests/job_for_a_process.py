"""A job that ends as it is told to: `python -m tests.job_for_a_process < {"end": ...}`.

A job that is told nothing, such as a conversion in its place, takes a minute.
"""

import os
import signal
import sys
import time

from backends.jobs import Answer, subprocess_main


def do(job: Answer) -> Answer:
    match job.get("end", "slow"):
        case "fail":
            raise ValueError("no such thing\nand more")
        case "crash":
            sys.exit("no memory")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        case "silent":
            os._exit(0)
        case "slow":
            time.sleep(60)
    print("what a library says")
    return {"did": job["end"]}


if __name__ == "__main__":
    subprocess_main(do)
