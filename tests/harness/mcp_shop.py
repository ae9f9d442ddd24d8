"""A server of the Model Context Protocol for tests: `python -m tests.harness.mcp_shop LOG [PORT]`.

By its standard streams, or with a port by streamable HTTP. LOG gets a line for each start and each call.
"""

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

LOG = Path(sys.argv[1])
shop = MCPServer("shop", log_level="CRITICAL")


def note(line: str) -> None:
    with LOG.open("a") as file:
        file.write(line + "\n")


@shop.tool()
def stock(item: str) -> int:
    """How many of an item there are."""
    note(f"stock {item}")
    return len(item)


@shop.tool(name="shop.price")
def price(item: str) -> dict[str, object]:
    """What an item costs."""
    note(f"price {item}")
    if item == "nothing":
        raise ValueError("no such item")
    return {"item": item, "usd": 2.5}


@shop.tool()
async def wait(seconds: float) -> str:
    """Wait."""
    note("wait")
    await asyncio.sleep(seconds)
    return "done"


@shop.tool()
def crash(times: int) -> str:
    """End the server, unless it has crashed so often."""
    note("crash")
    if LOG.read_text().count("crash\n") <= times:
        os._exit(3)
    return "survived"


@shop.tool()
def secret() -> str:
    """What the environment and the folder are."""
    return f"{os.environ.get('SHOP_TOKEN')} {os.environ.get('OPENAI_API_KEY')} {Path.cwd().name}"


@shop.tool()
def odd(config: str, run_manager: str, callbacks: str) -> str:
    """Take arguments by names that LangChain's tools take for themselves."""
    return f"{config} {run_manager} {callbacks}"


@shop.tool()
def bare(config: str = "none") -> str:
    """Declare no arguments."""
    return config


@shop.tool()
def untrue() -> dict[str, int]:
    """Answer with another thing than what is declared."""
    note("untrue")
    return {"a": 1}


untrue_tool = shop._tool_manager.get_tool("untrue")
assert untrue_tool is not None
untrue_tool.fn_metadata.output_schema = {"type": "object", "required": ["b"]}
bare_tool = shop._tool_manager.get_tool("bare")
assert bare_tool is not None
bare_tool.parameters = {"type": "object"}


if __name__ == "__main__":
    note(f"start {os.getpid()}")
    if len(sys.argv) > 2:
        shop.run("streamable-http", port=int(sys.argv[2]))
    else:
        shop.run("stdio")
