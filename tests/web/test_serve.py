"""This page has no login: it listens where only this machine can reach it."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from edged.clock import SystemClock
from edged.errors import Misconfigured, Unavailable
from edged.web.serve import bound, loopback


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8480", ("127.0.0.1", 8480)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:80", ("::1", 80)),
        ("127.8.9.1:0", ("127.8.9.1", 0)),
    ],
)
def test_the_loopback_is_where_it_listens(listen, address):
    assert loopback(listen) == address


@pytest.mark.parametrize("listen", ["0.0.0.0:8480", "[::]:8480", "192.168.1.4:8480", "box.example:80", "*:80"])
def test_any_other_address_is_refused_and_says_why(listen):
    with pytest.raises(Misconfigured, match="no login") as e:
        loopback(listen)
    assert "ssh -L" in e.value.hint


@pytest.mark.parametrize("listen", ["127.0.0.1", "8480", ":8480", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:٣"])
def test_what_is_no_address_is_refused(listen):
    with pytest.raises(Misconfigured, match="not host:port"):
        loopback(listen)


def test_a_port_that_is_taken_is_unavailable(app):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable, match="cannot listen"):
        bound(app, f"127.0.0.1:{other.getsockname()[1]}")


def test_sigterm_ends_it_with_exit_code_0_and_nothing_on_stderr(tmp_path):
    code = """
import sys
from pathlib import Path
from edged.clock import SystemClock
from edged.storage import Store
from edged.web.app import create_app
from edged.web.serve import serve
with Store.open(Path(sys.argv[1]), clock=SystemClock(), site_key=None) as store:
    app = create_app(store, site="s", classes=("a",), names={}, gate={}, clock=SystemClock(), secret="x", hosts=("127.0.0.1",))
    serve(app, "127.0.0.1:" + sys.argv[2], 2, ready=print)
print("closed")
"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", code, str(tmp_path), port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        wait_for(port)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (0, f"http://127.0.0.1:{port}/\nclosed\n", "")


def wait_for(port):
    """Until the page answers."""
    pause = SystemClock().sleep
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
                assert answer.status == 200
                return
        except OSError:
            pause(0.1)
    raise AssertionError("it never answered")
