"""A certificate authority for one test run."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

HOUR = timedelta(hours=1)


class CertificateAuthority:
    """An authority that signs server certificates.

    `client_context` trusts only this authority. `file` has its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        root = self._sign_certificate("authority", self._key.public_key(), ca=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(root.public_bytes(Encoding.PEM))
        self.client_context = ssl.create_default_context(cadata=self.file.read_text())

    def server_context(self, name: str) -> ssl.SSLContext:
        """Return a TLS context with a certificate for a host name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file(name))
        return context

    def server_file(self, name: str) -> Path:
        """Return a file with a certificate for a host name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign_certificate(name, key.public_key(), ca=False)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self._folder / f"{name}.pem"
        path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
        return path

    def _sign_certificate(
        self, name: str, public: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return (
            x509.CertificateBuilder()
            .issuer_name(_common_name("authority"))
            .subject_name(_common_name(name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            # Required by Python 3.13, which verifies strictly (VERIFY_X509_STRICT).
            .add_extension(_key_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, SHA256())
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    signing = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
    other = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        **signing, **dict.fromkeys((*other, "encipher_only", "decipher_only"), False)
    )
