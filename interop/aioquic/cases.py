"""Both sides of every case."""

import asyncio
import json

from session import Ended, Reset

# What both sides of a case agree on.
TEXT_UP = b"both ways"
TEXT_DOWN = b"from the server"
STREAM_COUNT = 100
STREAM_SIZE = 1000
TURNOVER = 300
MEGABYTE = 1 << 20
DATAGRAMS = 200
DATAGRAM_TIMEOUT = 1
CLIENT_CODE = 17
CLIENT_REASON = "the client's reason ✓"
SERVER_CODE = 4711
SERVER_REASON = "low water ≈ 2 m"
OFFERED = ["interop.v1", "other"]
CHOSEN = "interop.v1"
STREAM_CODES = [0, 29, 30, 255, 256, (1 << 32) - 1]
CASE_TIMEOUT = 30


def wire_code(code):
    """What an application's code is on the wire (draft-ietf-webtrans-http3-02 §4.3)."""
    return 0x52E4A40FA8DB + code + code // 0x1E


class Report:
    """What this side saw of a case. The codes are those on the wire, because
    aioquic does not map those of applications."""

    def __init__(self, case):
        self.case = case
        self.error = ""
        self.status = 0
        self.subprotocol = ""
        self.count = 0
        self.codes = []
        self.drained = False
        self.closed = None

    def print(self):
        fields = {name: value for name, value in vars(self).items() if value}
        print(json.dumps({**fields, "wire": True}), flush=True)


async def client_side(session, report):
    """Does what the client does in the case while the session is open."""
    match report.case:
        case "bidi":
            await exchange(session, TEXT_UP)
            await send_back(await session.until_ended(session.bidi))
        case "uni":
            await exchange_uni(session, b"one way")
        case "megabyte":
            await exchange(session, b"0123456789abcdef" * (MEGABYTE // 16))
        case "streams":
            report.count = await many_streams(session)
        case "server-streams":
            await echo(session)
        case "turnover":
            while report.count < TURNOVER:
                await exchange_uni(session, b"stream %d" % report.count)
                report.count += 1
        case "datagrams":
            report.count = await exchange_datagrams(session)
        case "reset-by-client" | "reset-by-server" | "stop-by-client" | "stop-by-server":
            await each_opened(session, report)
        case "close-by-server":
            await ask(session)
            report.closed = await session.ended
        case "drain-by-server":
            await ask(session)
            await session.drained.wait()
            report.drained = True
        case "drain-by-client":
            session.drain()
            await exchange(session, b"to the end")


async def server_side(session, report):
    """Does what the server does in the case while the session is open."""
    match report.case:
        case "bidi":
            await send_back(await session.until_ended(session.bidi))
            await ask_echo(session, TEXT_DOWN)
        case "server-streams":
            report.count = await many_streams(session)
            session.close_session(0, "")
        case "reset-by-client" | "reset-by-server" | "stop-by-client" | "stop-by-server":
            await each_accepted(session, report)
        case "close-by-server":
            await session.until_ended(session.uni)
            session.close_session(SERVER_CODE, SERVER_REASON)
        case "drain-by-server":
            await session.until_ended(session.uni)
            session.drain()
        case _:
            await echo(session)


async def ask(session):
    """Tells the server that the session may end."""
    session.open(uni=True).write(b"now", end=True)


async def echo(session):
    """Sends back all that the other side sends, until the session ends."""

    async def bidi():
        while True:
            tasks.create_task(ignore_end(send_back(await session.until_ended(session.bidi))))

    async def uni():
        while True:
            stream = await session.until_ended(session.uni)
            tasks.create_task(ignore_end(send_back_uni(session, stream)))

    async def datagrams():
        while True:
            session.send_datagram(await session.until_ended(session.datagrams))

    async with asyncio.TaskGroup() as tasks:
        for loop in (bidi(), uni(), datagrams()):
            tasks.create_task(ignore_end(loop))


async def ignore_end(work):
    """Waits for work, which the end of the session may end."""
    try:
        await work
    except Ended:
        pass


async def send_back(stream):
    """Echoes one stream to its end."""
    while data := await stream.reader.read(1 << 16):
        stream.write(data)
    stream.write(b"", end=True)


async def send_back_uni(session, stream):
    """Sends what came on a stream on one of this side."""
    data = await stream.reader.read()
    session.open(uni=True).write(data, end=True)


async def exchange(session, data):
    """Sends data on a new stream and wants it back."""
    stream = session.open()
    stream.write(data, end=True)
    wanted(data, await stream.reader.read())


async def exchange_uni(session, data):
    """Sends data on a new stream and wants it back on one of the server's."""
    session.open(uni=True).write(data, end=True)
    stream = await session.until_ended(session.uni)
    wanted(data, await stream.reader.read())


async def ask_echo(session, text):
    """Opens a stream, writes text, and ends it when that has come back."""
    stream = session.open()
    stream.write(text)
    wanted(text, await stream.reader.readexactly(len(text)))
    stream.write(b"", end=True)


async def many_streams(session):
    """Has all streams open at once, and returns how many were echoed."""
    streams = [session.open() for _ in range(STREAM_COUNT)]
    for i, stream in enumerate(streams):
        stream.write(bytes([i]))
    for i, stream in enumerate(streams):
        data = bytes([i]) * STREAM_SIZE
        stream.write(data[1:], end=True)
        wanted(data, await stream.reader.read())
    return STREAM_COUNT


async def exchange_datagrams(session):
    """Returns how many came back."""
    count = 0
    for i in range(DATAGRAMS):
        data = bytes([i]) * (i + 1)
        session.send_datagram(data)
        try:
            async with asyncio.timeout(DATAGRAM_TIMEOUT):
                count += data == await session.datagrams.get()
        except TimeoutError:
            pass
    return count


async def each_opened(session, report):
    """The client's part of a case about codes: opens a stream for each, has a byte
    echoed on it, and cancels it or waits until the server does."""
    for code in STREAM_CODES:
        stream = session.open()
        stream.write(b"\x01")
        await stream.reader.readexactly(1)
        match report.case:
            case "reset-by-client":
                stream.reset(wire_code(code))
                await stream.reader.read()
            case "reset-by-server":
                stream.write(b"\x02")
                report.codes.append(await reset_code(stream))
            case "stop-by-client":
                stream.stop(wire_code(code))
                seen = await session.until_ended(session.uni)
                await seen.reader.read()
            case "stop-by-server":
                stream.write(b"\x02")
                report.codes.append(await stream.stopped)


async def each_accepted(session, report):
    """The server's part of a case about codes."""
    for code in STREAM_CODES:
        stream = await session.until_ended(session.bidi)
        stream.write(await stream.reader.readexactly(1))
        match report.case:
            case "reset-by-client":
                report.codes.append(await reset_code(stream))
                stream.write(b"", end=True)
            case "reset-by-server":
                await stream.reader.readexactly(1)
                stream.reset(wire_code(code))
            case "stop-by-client":
                report.codes.append(await stream.stopped)
                session.open(uni=True).write(b"seen", end=True)
            case "stop-by-server":
                await stream.reader.readexactly(1)
                stream.stop(wire_code(code))
                stream.write(b"", end=True)


async def reset_code(stream):
    try:
        data = await stream.reader.read()
    except Reset as reset:
        return reset.args[0]
    raise ValueError(f"no reset, but {data!r} and the end")


def wanted(want, got):
    if want != got:
        raise ValueError(f"{len(got)} bytes came back and differ from the {len(want)} sent")
