"""Runs one program, confined: started by `programs` as a script of its own, `python -I -S -B confined.py`.

Standard input is JSON: `program`, `seal`, and the fields of `programs.Limits`. Once the program has ended without an
exception, the seal is written to the descriptor in `argv[1]`; else the name of the exception is. It imports the
standard library alone, since nothing else is found with -S.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys

# linux/sched.h and linux/prctl.h
NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # user, network, pid, IPC
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
# Audit events (docs.python.org, "Audit events table") by what is refused: other processes, the network, native code.
REFUSED = (
    "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "os.kill",
    "os.killpg", "pty.spawn", "subprocess.Popen", "socket.", "ctypes.", "syslog.",
    "signal.pthread_kill", "os.setxattr", "os.removexattr",
)  # fmt: skip
# Calls of which no event tells, by module: they start processes or threads, which RLIMIT_NPROC lets a superuser do.
UNHEARD = (
    ("_posixsubprocess", "fork_exec"), ("_thread", "start_new_thread"), ("_thread", "start_new"),
    ("_thread", "start_joinable_thread"),
)  # fmt: skip
# What changes files, with the number of paths among its arguments: refused outside of the program's folder.
CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.mkdir": 1, "os.rmdir": 1, "os.chmod": 1,
    "os.chown": 1, "os.truncate": 1, "os.utime": 1, "os.chdir": 1, "shutil.rmtree": 1, "shutil.move": 2,
    "shutil.copyfile": 2, "shutil.copytree": 2, "shutil.chown": 1,
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Confines this process step by step, and runs the program."""
    asked = json.load(sys.stdin)
    sealed = int(sys.argv[1])
    if asked["namespaces"]:
        own_world()
    limit(asked)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    guard(os.path.realpath(os.getcwd()))
    os.write(sealed, outcome(asked["program"], asked["seal"]).encode()[:200])
    os._exit(0)  # whatever threads the program has left


def own_world() -> None:
    """Moves into namespaces of its own where the kernel permits: no network, and processes that end with this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(NEW_NAMESPACES) != 0:
        return
    inside = os.fork()
    if inside == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return
    os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 0xFF)


def limit(asked: dict) -> None:
    """Limits of CPU time, address space, files, and processes; the last does not bind a superuser."""
    for kind, most in (
        (resource.RLIMIT_CPU, int(asked["seconds"]) + 1),
        (resource.RLIMIT_AS, asked["memory"]),
        (resource.RLIMIT_FSIZE, asked["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # it is lower already
            resource.setrlimit(kind, (most, most))


def guard(folder: str) -> None:
    """Refuses from here on other processes, threads, sockets, native code, and changes outside of `folder`."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("a generated program is one process of one thread")

    for name, call in UNHEARD:
        module = importlib.import_module(name)
        if hasattr(module, call):
            setattr(module, call, refuse)
    inside = folder + os.sep

    def own(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        found = os.path.realpath(os.fsdecode(path))
        return found == os.devnull or (found + os.sep).startswith(inside)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITES and not isinstance(path, int) and not own(path):
                raise PermissionError("a generated program writes into its own folder alone")
        elif event.startswith(REFUSED):
            raise PermissionError(f"a generated program may not {event}")
        elif event in CHANGES and not all(map(own, arguments[: CHANGES[event]])):
            raise PermissionError(f"a generated program may not {event} outside of its folder")

    sys.addaudithook(hook)


def outcome(program: str, seal: str) -> str:
    """The seal where the program ends, else the exception; a program that exits has not ended."""
    try:
        exec(compile(program, "<generated>", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        return type(error).__name__
    return seal


if __name__ == "__main__":
    main()
