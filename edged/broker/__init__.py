"""The embedded MQTT broker of the demo and of one small site, and the keys and rules that mosquitto shares with it.

    parcel.py      a message on its way, as the broker keeps it
    trie.py        who subscribed to what
    acl.py         who may publish and subscribe what; pure
    session.py     one client's memory: subscriptions, what is on its way, what waits
    hub.py         routing, retained messages, wills, expiry; no sockets
    codec.py       bytes to packets
    connection.py  one socket: frames, packets, keepalive
    server.py      listening, TLS, the sweep; in a thread for tests, in a process by `python -m edged.broker`
    identity.py    the site's CA and certificates
    mosquitto.py   the same rules as a mosquitto configuration

Guarantees and limits stand in the files. What the whole does not guarantee: anything across a restart (all state is in
memory), QoS 2, shared subscriptions.
"""
