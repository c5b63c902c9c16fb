"""What sslyze finds in a running `medserve serve --tls-cert`; exit code 1 for any finding of medium weight or worse.

    python benchmarks/tls_scan.py

An authority made for this run signs the server's certificate, so that "not signed by a public authority" is the one
thing left out. sslyze runs from an environment of its own, benchmarks/.venvs/sslyze, made on first use. Prints one JSON
object.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).parent
SSLYZE = "sslyze==6.3.1"
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
NEW = ("tls_1_2", "tls_1_3")
TESTS = "sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression heartbleed openssl_ccs robot reneg early_data certinfo"
TESTS += " elliptic_curves"
WEAK = ("_CBC", "RC4", "3DES", "NULL", "EXPORT", "anon", "MD5", "TLS_RSA_")


def environment() -> Path:
    folder = HERE / ".venvs" / "sslyze"
    if not (folder / "bin" / "sslyze").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", SSLYZE], check=True)
    return folder / "bin" / "sslyze"


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Authority, certificate with chain, key (PEM files)."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "medserve test authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    basics = x509.BasicConstraints(ca=True, path_length=0)
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(basics, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    cert = (
        x509.CertificateBuilder(ca_name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=29))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuer, critical=False)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "server.pem").write_bytes(cert.public_bytes(pem) + ca.public_bytes(pem))
    (folder / "server.key").write_bytes(key.private_bytes(pem, *plain))
    (folder / "server.key").chmod(0o600)
    return folder / "ca.pem", folder / "server.pem", folder / "server.key"


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=sign_certificates, crl_sign=sign_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def findings(result: dict, ca: str) -> list[str]:
    """Everything of medium weight or worse, in words; a test that did not run is a finding, too."""
    broken = {name: part for name, part in result.items() if part["status"] == "ERROR"}
    if broken:
        return [f"{name} was not tested: {(p['error_trace'] or '').strip()[-200:]}" for name, p in broken.items()]
    found = []
    for name in OLD:
        if result[f"{name}_cipher_suites"]["result"]["accepted_cipher_suites"]:
            found.append(f"{name} is accepted")
    for name in NEW:
        suites = result[f"{name}_cipher_suites"]["result"]["accepted_cipher_suites"]
        if not suites:
            found.append(f"{name} is not accepted")
        for suite in suites:
            title = suite["cipher_suite"]["name"]
            strong = name == "tls_1_3" or "_ECDHE_" in title
            if any(word in title for word in WEAK) or suite["cipher_suite"]["key_size"] < 128 or not strong:
                found.append(f"{name}: weak suite {title}")
    if result["tls_compression"]["result"]["supports_compression"]:
        found.append("compression (CRIME)")
    if result["heartbleed"]["result"]["is_vulnerable_to_heartbleed"]:
        found.append("Heartbleed")
    if result["openssl_ccs_injection"]["result"]["is_vulnerable_to_ccs_injection"]:
        found.append("CCS injection")
    if not result["robot"]["result"]["robot_result"].startswith("NOT_VULNERABLE"):
        found.append("ROBOT")
    renegotiation = result["session_renegotiation"]["result"]
    if renegotiation["is_vulnerable_to_client_renegotiation_dos"]:
        found.append("renegotiation by the client")
    if not renegotiation["supports_secure_renegotiation"]:
        found.append("insecure renegotiation")
    if result["tls_1_3_early_data"]["result"]["supports_early_data"]:
        found.append("early data (replay)")
    for deployment in result["certificate_info"]["result"]["certificate_deployments"]:
        trusted = [v["was_validation_successful"] for v in deployment["path_validation_results"]
                   if v["trust_store"]["path"] == ca]  # fmt: skip
        if trusted != [True]:
            why = [v.get("validation_error") for v in deployment["path_validation_results"]][-1]
            found.append(f"{why}: the certificate does not hold for this host against its authority")
        if deployment["verified_chain_has_sha1_signature"] or not deployment["received_chain_has_valid_order"]:
            found.append("the chain is signed with SHA-1 or out of order")
    curves = result["elliptic_curves"]["result"]["supported_curves"] or []
    found += [f"weak curve {curve['name']}" for curve in curves if curve["openssl_nid"] and _bits(curve["name"]) < 224]
    return found


def _bits(curve: str) -> int:
    digits = "".join(letter if letter.isdigit() else " " for letter in curve).split()
    return 256 if curve.startswith("X") else int(digits[0]) if digits else 256


def main() -> int:
    sslyze = environment()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from tiny_package import write_package

    from medserve.access.keys import KeyRing
    from medserve.settings import Settings

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        settings = Settings(home=folder / "home")
        KeyRing.open(settings).create("scan")
        package = write_package(folder / "model", settings)
        ca, cert, key = certificates(folder)
        command = [
            sys.executable,
            "-m",
            "medserve.cli",
            "serve",
            "--models",
            str(package),
            "--home",
            str(settings.home),
        ]
        command += ["--port", "0", "--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as server:
            try:
                assert server.stdout is not None
                port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
                out = folder / "scan.json"
                scan = [sslyze, "--json_out", out, "--certinfo_ca_file", ca, "--mozilla_config", "disable"]
                scan += [f"--{test}" for test in TESTS.split()]
                subprocess.run([*map(str, scan), f"localhost:{port}"], check=False, stdout=subprocess.DEVNULL)
                (said,) = json.loads(out.read_text())["server_scan_results"]
            finally:
                server.terminate()
                server.wait(30)
    if said["scan_result"] is None:
        sys.exit(f"no scan: {said['connectivity_error_trace']}")
    result = said["scan_result"]
    found = findings(result, str(ca))
    suites = {
        name: [s["cipher_suite"]["name"] for s in result[f"{name}_cipher_suites"]["result"]["accepted_cipher_suites"]]
        for name in NEW
    }
    print(json.dumps({"scanner": SSLYZE, "findings": found, "accepted": suites}, indent=1))
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
