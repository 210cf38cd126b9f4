"""A WebTransport session on aioquic.

aioquic has SETTINGS, the headers of streams, and datagrams. All else is here: the
request, the capsules, the codes, and the reading of bidirectional streams that
this side opened, which aioquic takes for requests.
"""

import asyncio
import datetime
import hashlib
import ipaddress
import ssl

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLOSE = 0x2843
DRAIN = 0x78AE


class Reset(Exception):
    """The other side reset a stream, with this code on the wire."""


class Ended(Exception):
    """The session has ended."""


class Stream:
    """A stream. reader is None on one that this side opened in one direction."""

    def __init__(self, session, stream_id):
        self.session = session
        self.id = stream_id
        self.reader = asyncio.StreamReader()
        # The code of the other side's STOP_SENDING.
        self.stopped = asyncio.get_running_loop().create_future()

    def write(self, data, end=False):
        self.session._quic.send_stream_data(self.id, data, end)
        self.session.transmit()

    def reset(self, code):
        self.session._quic.reset_stream(self.id, code)
        self.session.transmit()

    def stop(self, code):
        self.session._quic.stop_stream(self.id, code)
        self.session.transmit()


class Session(QuicConnectionProtocol):
    """One session, which has its connection for itself."""

    def __init__(self, *args, handle=None, **kwargs):
        super().__init__(*args, **kwargs)
        loop = asyncio.get_running_loop()
        self.handle = handle  # of a server: called when the request is there
        self.http = None
        self.id = None  # of the CONNECT stream
        self.path = ""
        self.offered = []
        self.subprotocol = ""
        self.status = loop.create_future()
        self.ended = loop.create_future()  # how the other side ended it, or None
        self.drained = asyncio.Event()
        self.bidi = asyncio.Queue()
        self.uni = asyncio.Queue()
        self.datagrams = asyncio.Queue()
        self.streams = {}
        self.opened = set()  # bidirectional streams of this side
        self.capsules = b""
        self.accepted = False
        self.finished = False  # whether FIN or a reset is sent on the CONNECT stream

    # The request.

    async def request(self, authority, path, offered):
        """Asks for the session, and returns the status of the answer."""
        self.id = self._quic.get_next_available_stream_id()
        self.http.send_headers(
            self.id,
            [
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", authority.encode()),
                (b":path", path.encode()),
                (b":protocol", b"webtransport"),
                (b"sec-webtransport-http3-draft02", b"1"),
                (b"wt-available-protocols", ", ".join(f'"{p}"' for p in offered).encode()),
            ],
        )
        self.transmit()
        return await self.status

    def answer(self, status, subprotocol=""):
        """Answers the request."""
        self.accepted = status == 200
        self.subprotocol = subprotocol
        headers = [(b":status", str(status).encode())]
        if status == 200:
            headers.append((b"sec-webtransport-http3-draft", b"draft02"))
        if subprotocol:
            headers.append((b"wt-protocol", f'"{subprotocol}"'.encode()))
        self.http.send_headers(self.id, headers, end_stream=status != 200)
        self.transmit()

    def check_hash(self, want):
        """Fails if the server's certificate has another hash."""
        certificate = self._quic.tls._peer_certificate
        if hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest() != want:
            raise ValueError("certificate has another hash")

    # The session.

    def open(self, uni=False):
        """Opens a stream."""
        stream = Stream(self, self.http.create_webtransport_stream(self.id, is_unidirectional=uni))
        self.streams[stream.id] = stream
        if not uni:
            self.opened.add(stream.id)
        self.transmit()
        return stream

    async def until_ended(self, queue):
        """Returns the next of a queue, and raises Ended when the session ends."""
        get = asyncio.ensure_future(queue.get())
        await asyncio.wait({get, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if get.done():
            return get.result()
        get.cancel()
        raise Ended

    def send_datagram(self, data):
        self.http.send_datagram(self.id, data)
        self.transmit()

    def drain(self):
        self.send_capsule(DRAIN, b"")

    def close_session(self, code, reason):
        """Closes the session. The other side's end may be waited for in ended."""
        self.send_capsule(CLOSE, code.to_bytes(4, "big") + reason.encode(), end=True)

    async def end(self, code, reason):
        """Closes the session if it is open, and waits for the other side."""
        if not self.ended.done():
            self.close_session(code, reason)
        await self.ended

    def send_capsule(self, kind, value, end=False):
        if not self.finished:
            self.finished = end
            capsule = encode_uint_var(kind) + encode_uint_var(len(value)) + value
            self.http.send_data(self.id, capsule, end_stream=end)
            self.transmit()

    def end_with(self, how, code=0, reason=""):
        if not self.ended.done():
            # After a close of its own, the other side's is but the answer.
            ended = None if self.finished else {"how": how, "code": code, "reason": reason}
            self.ended.set_result(ended)

    # Events.

    def quic_event_received(self, event):
        match event:
            case ProtocolNegotiated():
                self.http = H3Connection(self._quic, enable_webtransport=True)
                return
            case ConnectionTerminated():
                self.end_with("connection", event.error_code, event.reason_phrase)
                for stream in self.streams.values():
                    stream.reader.set_exception(Ended())
                return
            case StreamDataReceived() if event.stream_id in self.opened:
                self.feed(event.stream_id, event.data, event.end_stream)
                return
            case StreamReset() if event.stream_id in self.streams:
                self.streams[event.stream_id].reader.set_exception(Reset(event.error_code))
            case StreamReset() if event.stream_id == self.id:
                self.end_with("reset", event.error_code)
            case StopSendingReceived() if event.stream_id == self.id:
                self.finished = True  # aioquic has reset the stream
            case StopSendingReceived() if event.stream_id in self.streams:
                self.streams[event.stream_id].stopped.set_result(event.error_code)
        if self.http is not None:
            for http_event in self.http.handle_event(event):
                self.http_event_received(http_event)

    def http_event_received(self, event):
        match event:
            case HeadersReceived():
                self.headers_received(event)
            case DataReceived() if event.stream_id == self.id:
                self.capsules += event.data
                self.read_capsules()
                if event.stream_ended:
                    self.connect_ended()
            case DatagramReceived():
                self.datagrams.put_nowait(event.data)
            case WebTransportStreamDataReceived():
                if event.stream_id not in self.streams:
                    stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
                    (self.uni if event.stream_id & 2 else self.bidi).put_nowait(stream)
                self.feed(event.stream_id, event.data, event.stream_ended)

    def headers_received(self, event):
        headers = dict(event.headers)
        if b":status" in headers:
            self.subprotocol = headers.get(b"wt-protocol", b"").decode().strip('"')
            if not self.status.done():
                status = int(headers[b":status"])
                self.accepted = status == 200
                self.status.set_result(status)
        elif headers.get(b":protocol") == b"webtransport" and self.id is None:
            self.id = event.stream_id
            self.path = headers[b":path"].decode()
            offered = headers.get(b"wt-available-protocols", b"").decode()
            self.offered = [p.strip().strip('"') for p in offered.split(",")]
            self.handle(self)
        if event.stream_ended:
            self.connect_ended()

    def read_capsules(self):
        while self.capsules:
            buffer = Buffer(data=self.capsules)
            try:
                kind = buffer.pull_uint_var()
                value = buffer.pull_bytes(buffer.pull_uint_var())
            except BufferReadError:
                return  # the rest is to come
            self.capsules = self.capsules[buffer.tell() :]
            if kind == CLOSE:
                self.end_with("close", int.from_bytes(value[:4], "big"), value[4:].decode())
            elif kind == DRAIN:
                self.drained.set()

    def connect_ended(self):
        self.end_with("close")
        if self.accepted and not self.finished:
            self.finished = True
            self.http.send_data(self.id, b"", end_stream=True)
            self.transmit()

    def feed(self, stream_id, data, end):
        reader = self.streams[stream_id].reader
        if data:
            reader.feed_data(data)
        if end:
            reader.feed_eof()


def client_configuration():
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        max_datagram_frame_size=65536,
        verify_mode=ssl.CERT_NONE,  # the hash is checked in its place
    )


def server_configuration():
    """A configuration with a new certificate that may be trusted by its hash."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "interop")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=H3_ALPN, max_datagram_frame_size=65536
    )
    configuration.certificate = certificate
    configuration.private_key = key
    der = certificate.public_bytes(serialization.Encoding.DER)
    return configuration, hashlib.sha256(der).digest()
