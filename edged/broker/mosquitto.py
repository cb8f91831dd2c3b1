"""The rules of `acl.py` as a mosquitto configuration, for production.

Guarantees: what the embedded broker refuses a camera, mosquitto with these two files does not deliver (one test walks
the same matrix over both). Differences that remain: mosquitto grants a forbidden subscription and then delivers nothing
by it, it lets a camera retain whatever it may publish up to `max_packet_size`, it lets the box announce any device to Home
Assistant and not its own only, and whoever holds a reserved name may also speak as a camera of that name.
"""

from __future__ import annotations

from pathlib import Path

from edged.broker.acl import CAMERA_READS, CAMERA_WRITES, DISCOVERY, HOME, HOME_READS, HOME_WRITES, SERVER
from edged.wire.link import Tls
from edged.wire.messages import MAX_FRAME_BYTES
from edged.wire.topics import ROOT, check_level

FOLDER = Path("/etc/mosquitto/edged")  # keys and rules as mosquitto sees them; it is a user of its own
DATA = Path("/var/lib/mosquitto")  # Debian's folder of that user


def render_acl(site: str, discovery: str = DISCOVERY) -> str:
    """The `acl_file`. `%u` is the user name, that is the certificate's common name; never `%c`, the client id."""
    check_level(site, "site")
    own = f"{ROOT}/{site}/cam/%u"
    lines = [
        "# Written by edged from edged/broker/acl.py. What is not listed is refused.",
        f"user {SERVER}",
        f"topic readwrite {ROOT}/{site}/#",
        f"topic write {discovery}/device/+/config",
        "",
        f"user {HOME}",
        f"topic read {discovery}/#",
        f"topic write {discovery}/status",
        *(f"topic read {ROOT}/{site}/{leaf}" for leaf in HOME_READS),
        f"topic write {ROOT}/{site}/{HOME_WRITES}",
        "",
        *(f"pattern write {own}/{leaf}" for leaf in CAMERA_WRITES),
        *(f"pattern read {own}/{leaf}" for leaf in CAMERA_READS),
        f"pattern read {ROOT}/{site}/model/#",
    ]
    return "\n".join(lines) + "\n"


def render_conf(
    *, host: str, port: int, tls: Tls, acl_file: Path, data_dir: Path, user: str = "mosquitto", crl: Path | None = None
) -> str:
    """`mosquitto.conf`; `tls` are the broker's files, `crl` is the list of revoked certificates, which must be there when
    mosquitto starts. mosquitto becomes `user` before it reads any of them: that user needs to be able to read them.
    """
    return f"""\
# Written by edged. MQTT v5 with client certificates only: the certificate's common name is user name and client id, so
# that no camera can take over another one's session.
per_listener_settings false
user {user}
listener {port} {host}
protocol mqtt
cafile {tls.ca}
certfile {tls.cert}
keyfile {tls.key}
{f"crlfile {crl}{chr(10)}" if crl else ""}tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {acl_file}
# A frame and its header; larger packets end the connection.
max_packet_size {MAX_FRAME_BYTES + 64 * 1024}
max_keepalive 300
max_inflight_messages 20
max_queued_messages 0
max_queued_bytes 67108864
max_qos 1
set_tcp_nodelay true
persistence true
persistence_location {data_dir}/
persistent_client_expiration 7d
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
"""
