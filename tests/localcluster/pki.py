"""Certificates and kubeconfigs of one control plane."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_LIFETIME = datetime.timedelta(days=365)
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and its key."""

    certificate: Path
    key: Path


class CertificateAuthority:
    """A throw-away authority that signs what one cluster needs into `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubequant-local-ca")])
        self._certificate = self._sign(self._name, self._key.public_key(), [], is_authority=True)
        self.certificate = directory / "ca.crt"
        _write_certificate(self.certificate, self._certificate)

    def issue(self, name: str, common_name: str, organisation: str = "", alternatives: Sequence[str] = ()) -> KeyPair:
        """Sign a certificate; `alternatives` are DNS names or IP addresses that a server answers to."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organisation:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        certificate = self._sign(x509.Name(attributes), key.public_key(), alternatives, is_authority=False)
        pair = KeyPair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        _write_certificate(pair.certificate, certificate)
        _write_key(pair.key, key)
        return pair

    def _sign(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, alternatives: Sequence[str], is_authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks of pods may lag
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            # Python 3.13 and later refuse chains without key identifiers.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(_key_usage(is_authority), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in alternatives]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def write_service_account_keys(directory: Path) -> KeyPair:
    """Make the RSA pair that signs ServiceAccount tokens; `certificate` is the bare public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pair = KeyPair(directory / "service-account.pub", directory / "service-account.key")
    pair.certificate.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    _write_key(pair.key, key)
    return pair


def kubeconfig(server: str, authority: Path, credential: KeyPair | str, namespace: str = "default") -> str:
    """A kubeconfig as YAML text; `credential` is a client certificate or a bearer token."""
    if isinstance(credential, KeyPair):
        user = {"client-certificate": str(credential.certificate), "client-key": str(credential.key)}
    else:
        user = {"token": credential}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user", "namespace": namespace}}],
        "current-context": "local",
    }
    return yaml.safe_dump(document, sort_keys=False)


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: _PrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
