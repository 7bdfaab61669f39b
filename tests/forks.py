"""Work in a child process, so that a signal may end it."""

import os
import signal
import sys
import time
from collections.abc import Callable


def forked(work: Callable[[], object], seconds: float | None = None) -> int:
    """Run ``work`` in a child, killed after some seconds if given; the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # the child of a fork must not return
            print(f"child: {error!r}", file=sys.stderr)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
