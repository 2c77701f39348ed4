"""Certificates for servers of the tests."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """Certificates of one name, each its own authority."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        folder.mkdir()
        self.renew()

    def renew(self) -> None:
        """Make another certificate and key in the same files."""
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-days", "1", "-subj", "/CN=signalbox", "-addext", "subjectAltName=IP:127.0.0.1"]
        files: list[str | Path] = ["-keyout", self.key, "-out", self.certificate]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)

    def trust(self) -> str:
        """Return the certificate that clients of its present holder must trust."""
        return self.certificate.read_text()
