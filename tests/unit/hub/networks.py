"""A corporate network in small: a CA of its own, a hub behind TLS, and a forward proxy that is the only way out."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Files in PEM: the CA's certificate, and a server's certificate with its key that it has signed."""

    ca_file: Path
    server_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file)
        return context


_OPENING = threading.Lock()  # one front a place, whoever asks for it first


def authority(folder: Path, *hosts: str) -> Authority:
    """A new CA, and a certificate of it for these hosts and 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("A company's CA")
    ca = _builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    names = [x509.DNSName(host) for host in hosts]
    server = _builder(_name("hub"), ca_name, key).add_extension(
        x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
    )
    found = Authority(folder / "ca.pem", folder / "server.pem")
    found.ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = server.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    found.server_file.write_bytes(private + signed)
    return found


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


@contextmanager
def behind_tls(
    target: str, context: ssl.SSLContext, host: str = "127.0.0.1", *, rewriting: bool = True
) -> Iterator[int]:
    """The port at which an http server is reached by https. Its redirects to other ports get a front of their own, when
    `rewriting`."""
    with _serving(_front(target, host, context, {} if rewriting else None), context) as port:
        yield port


def _front(
    target: str, host: str, context: ssl.SSLContext, fronts: dict[str, int] | None
) -> type[BaseHTTPRequestHandler]:
    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            where = urlsplit(target)
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length"):
                    self.send_header(name, self._as_https(value) if name == "Location" else value)
            if answer.status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            connection.close()

        def _as_https(self, location: str) -> str:
            where = urlsplit(location)
            if fronts is None:
                return location
            with _OPENING:
                if where.netloc not in fronts:
                    server = _tls_server(_front(f"http://127.0.0.1:{where.port}", host, context, fronts), context)
                    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
                    fronts[where.netloc] = server.server_port
            return where._replace(scheme="https", netloc=f"{host}:{fronts[where.netloc]}").geturl()

        def log_message(self, *_: object) -> None:
            pass

    return Front


def _tls_server(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        # The handshake belongs to the connection's thread, not to the one that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> Iterator[int]:
    server = _tls_server(handler, context)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class ForwardProxy:
    """What a forward proxy was asked for: `CONNECT host:port` and `GET host:port`."""

    port: int
    asked: list[str] = field(default_factory=list)


@contextmanager
def forward_proxy(addresses: Mapping[str, tuple[str, int]], password: str = "") -> Iterator[ForwardProxy]:
    """A proxy that alone knows where the hosts are: `host:port` leads to an address. With a password, for `user` only."""
    seen = ForwardProxy(0)
    expected = "Basic " + base64.b64encode(f"user:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            seen.asked.append(f"CONNECT {self.path}")
            if self._refused():
                return
            with socket.create_connection(self._address(self.path), timeout=10) as far:
                self.send_response_only(200)
                self.end_headers()
                _relay(self.connection, far)
            self.close_connection = True

        def do_GET(self) -> None:
            where = urlsplit(self.path)
            seen.asked.append(f"GET {where.netloc}")
            if self._refused():
                return
            connection = http.client.HTTPConnection(*self._address(where.netloc), timeout=10)
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            connection.request("GET", where._replace(scheme="", netloc="").geturl(), headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refused(self) -> bool:
            if not password or self.headers.get("Proxy-Authorization") == expected:
                return False
            self.send_response_only(407)
            self.send_header("Proxy-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True

        def _address(self, name: str) -> tuple[str, int]:
            host, _, port = name.partition(":")
            return addresses.get(name) or (addresses[host][0], int(port))

        def log_message(self, *_: object) -> None:
            pass

    with _serving(Handler, None) as port:
        seen.port = port
        yield seen


def _relay(near: socket.socket, far: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([near, far], [], [], 10)
        if not readable:
            return
        for one in readable:
            data = one.recv(65_536)
            if not data:
                return
            (far if one is near else near).sendall(data)
