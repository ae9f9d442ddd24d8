"""A graph whose rows misbehave as their text says; tests copy it into a project, and never import it."""

import asyncio
import ctypes
import faulthandler
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

BLOCK_S = float(os.environ.get("UNRULY_BLOCK_S", "3"))


class State(TypedDict, total=False):
    text: str
    reply: str


def misbehave(text: str) -> None:
    match text.partition(" ")[0]:
        case "die":
            os._exit(9)
        case "leave":
            os._exit(0)
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "faulthandler":
            faulthandler._sigsegv()  # type: ignore[attr-defined]
        case "fork":
            os.fork()
        case "thread":
            threading.Thread(target=time.sleep, args=(3600,)).start()
        case "bounded":  # more than the process may have: the allocation fails
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
            try:
                bytearray(4 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        case "abrupt":  # as "bounded", in code that cannot do without: it ends the process
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
            if ctypes.CDLL(None).calloc(1, ctypes.c_size_t(4 << 30)) == 0:
                os.abort()
        case "large":  # touched page by page, held for a moment, and freed
            held = bytearray(b"x") * (1 << 30)
            time.sleep(BLOCK_S)
            del held
        case "print":
            print("from a node")
            os.write(1, b"from a node, raw\n")
        case "block":
            time.sleep(BLOCK_S)
        case "spin":
            until = time.monotonic() + BLOCK_S
            while time.monotonic() < until:
                pass
        case "interpreter":
            ctypes.PyDLL(None).usleep(int(BLOCK_S * 1e6))
        case "change":
            os.chdir("/")
            os.umask(0o777)
            sys.setrecursionlimit(300)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                if threading.current_thread() is threading.main_thread():
                    signal.signal(number, signal.SIG_IGN)


async def in_loop(state: State) -> State:
    await asyncio.sleep(0)
    misbehave(state["text"])
    return {"reply": state["text"].upper()}


def in_thread(state: State) -> State:
    misbehave(state["text"])
    return {"reply": state["text"].upper()}


def _built(node: Any) -> Any:
    building = StateGraph(State)
    building.add_node("node", node)
    building.add_edge(START, "node")
    building.add_edge("node", END)
    return building.compile()


graph = _built(in_loop)
threaded = _built(in_thread)
