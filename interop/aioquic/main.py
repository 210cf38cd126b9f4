"""A peer for the interoperability tests, on aioquic. The Go package interop says
what it is told and what it prints.

python main.py server
python main.py client
"""

import asyncio
import importlib.metadata
import json
import sys
from urllib.parse import urlsplit

import cases
from session import Session, client_configuration, server_configuration

from aioquic.asyncio import connect, serve


def hello(**fields):
    version = importlib.metadata.version("aioquic")
    print(json.dumps({"peer": f"aioquic {version}", **fields}), flush=True)


async def run_client():
    """Tries the cases that standard input names, until it ends."""
    hello()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        report = cases.Report(task["case"])
        try:
            async with asyncio.timeout(cases.CASE_TIMEOUT):
                await try_case(task, report)
        except Exception as error:
            report.error = repr(error)
        report.print()


async def try_case(task, report):
    """Opens a session, and does the client's part."""
    url = urlsplit(task["url"])
    async with connect(
        url.hostname, url.port, configuration=client_configuration(), create_protocol=Session
    ) as session:
        session.check_hash(bytes.fromhex(task["hash"]))
        status = await session.request(url.netloc, url.path, cases.OFFERED)
        if status != 200:
            report.status = status
            return
        report.subprotocol = session.subprotocol
        await cases.client_side(session, report)
        if report.case == "close-by-client":
            await session.end(cases.CLIENT_CODE, cases.CLIENT_REASON)
        else:
            await session.end(0, "")


async def run_server():
    """Serves every case, at the path of its name, until standard input ends."""
    configuration, digest = server_configuration()
    serving = set()

    def handle(session):
        task = asyncio.create_task(serve_case(session))
        serving.add(task)
        task.add_done_callback(serving.discard)

    def protocol(*args, **kwargs):
        return Session(*args, handle=handle, **kwargs)

    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=protocol)
    host, port = server._transport.get_extra_info("sockname")[:2]
    hello(addr=f"{host}:{port}", hash=digest.hex())
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def serve_case(session):
    """Serves one session, and prints what it saw of it."""
    report = cases.Report(session.path.removeprefix("/"))
    if report.case == "reject":
        session.answer(404)
        return
    try:
        async with asyncio.timeout(cases.CASE_TIMEOUT):
            session.answer(200, cases.CHOSEN if cases.CHOSEN in session.offered else "")
            report.subprotocol = session.subprotocol
            await cases.server_side(session, report)
            report.closed = await session.ended
    except Exception as error:
        report.error = repr(error)
    report.drained = session.drained.is_set()
    report.print()


match sys.argv[1:]:
    case ["server"]:
        asyncio.run(run_server())
    case ["client"]:
        asyncio.run(run_client())
    case _:
        sys.exit("say server or client")
