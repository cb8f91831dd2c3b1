"""`edged homeassistant`: a certificate of its own for Home Assistant (docs/home-assistant.md)."""

from __future__ import annotations

from edged.cli.main import Context, main, verb


@main.group()
def homeassistant() -> None:
    """Home Assistant sees this site through MQTT discovery; [homeassistant] discovery switches it on."""


@homeassistant.command("enroll")
@verb
def homeassistant_enroll(context: Context) -> None:
    """Issue a certificate for Home Assistant: it may read states and figures, and switch captures; never see a picture."""
    from edged.broker import identity
    from edged.broker.acl import HOME
    from edged.clock import SystemClock

    config = context.config()
    tls = identity.issue(config.keys_dir, HOME, server=False, now=SystemClock().now())
    discovery = config.homeassistant.discovery
    context.out(
        {"ca": tls.ca, "certificate": tls.cert, "key": tls.key, "port": config.mqtt.port, "discovery": discovery},
        f"in Home Assistant: Settings, Devices & services, Add integration, MQTT; port {config.mqtt.port}, advanced options:\n"
        f"  MQTT protocol 5, broker certificate {tls.ca}, client certificate {tls.cert}, its key {tls.key};"
        " then remove the key here"
        + ("" if discovery else "\n  and set [homeassistant] discovery = true in the configuration: it is off"),
    )
