"""The kernel of a notebook run: IPython's own, but it never outlives the run, and its workers never outlive it.

However a run is killed, no orphan may write over the next one.
"""

import ctypes
import os
import signal
import sys
import time


def end_together() -> None:
    """Tie this process to the one that started it, and all that it will start to this one.

    On Linux it is killed at once (by PR_SET_PDEATHSIG); elsewhere ipykernel looks for its parent every second. A
    watcher then ends the group of processes that Jupyter gives every kernel.
    """
    kernel = os.getpid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is for the notebook
        while os.getppid() == kernel:
            time.sleep(0.2)
        os.killpg(kernel, signal.SIGKILL)


if __name__ == "__main__":
    end_together()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
