"""Runs a command and ends as it ends: with its status, or by its signal. A program of its own.

    python -IS waiter.py PIPE DIRECTORY COMMAND...

PIPE is the number of an open pipe that is told the command's process id, and is closed once the command
runs, as the leader of a session of its own in DIRECTORY. nsenter could wait, too, but it stops with its
command, and does not see that somebody else made that go on.
"""

import os
import resource
import signal
import sys

_NOT_FOUND = 127  # as a shell has it


def main(pipe: int, directory: str, command: list[str]) -> None:
    os.set_inheritable(pipe, False)
    child = os.fork()
    if child == 0:
        os.setsid()
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python's, which the command would inherit
            signal.signal(ignored, signal.SIG_DFL)
        try:
            os.chdir(directory)
            os.execvp(command[0], command)
        except OSError as cause:
            print(f"cannot run {command[0]} in {directory}: {cause}", file=sys.stderr, flush=True)
            os._exit(_NOT_FOUND)
    os.write(pipe, str(child).encode())
    os.close(pipe)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its core is not worth a file
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
