"""The command line of `edged-agent`: verbs and options. What they do is in cli.py."""

from __future__ import annotations

import argparse

from edged import __version__


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="edged-agent", description="The camera's side of edged: takes pictures, labels regions, updates its model."
    )
    made.add_argument("--version", action="version", version=f"edged-agent {__version__}")
    made.add_argument("--json", action="store_true", dest="json_first", help="the same as behind the verb")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="run|test|status|unpack|probe")
    for verb, words in (
        ("run", "take pictures until SIGTERM"),
        ("test", "try the broker, the source and the model"),
        ("status", "what the state directory says"),
        ("unpack", "the ONNX file of a packed model or a delta"),
        ("probe", "measure how fast this camera runs each kind of layer; a few minutes"),
    ):
        sub = verbs.add_parser(verb, help=words, description=words)
        sub.add_argument("--json", action="store_true", help="one JSON document; errors on stderr")
        sub.add_argument("-v", "--verbose", action="store_true")
        if verb == "unpack":
            sub.add_argument("file", metavar="FILE")
            sub.add_argument("--from", metavar="OLD.onnx", help="the file that a delta starts from")
            sub.add_argument("-o", "--out", metavar="FILE.onnx", help="else FILE with the suffix .onnx")
            continue
        if verb == "probe":
            sub.add_argument("-o", "--out", metavar="FILE.json", help="write what was found there")
            sub.add_argument(
                "--send", action="store_true", help="and send it to the box, which fits the device's speed to it"
            )
            sub.add_argument(
                "--seconds", type=float, default=60.0, metavar="S", help="to measure in, loading not counted (60)"
            )
            sub.add_argument("--runtime", choices=("auto", "openvino", "onnxruntime"))
        sub.add_argument("-c", "--config", metavar="FILE.toml", help="the same keys as the options, with _ for -")
        sub.add_argument("--state", metavar="DIR", help="spool, slots and trust of this camera")
        if verb in ("status", "probe"):
            continue
        sub.add_argument("--site", metavar="ID")
        sub.add_argument("--camera", metavar="ID")
        sub.add_argument("--broker", metavar="HOST:PORT")
        sub.add_argument("--ca", metavar="PEM", help="who signs the broker's certificate")
        sub.add_argument("--cert", metavar="PEM", help="this camera's certificate")
        sub.add_argument("--key", metavar="PEM")
        sub.add_argument("--root", metavar="JSON", help="root of trust for models, from the box")
        sub.add_argument(
            "--source", metavar="SRC", help="folder:DIR, file:CLIP, v4l2:/dev/video0, rtsp://..., scene:PLACE, ..."
        )
        sub.add_argument("--fps", type=float, metavar="N", help="pictures a second at most (5); 0 = as they come")
        sub.add_argument("--limit", type=int, metavar="N", help="end the source after N pictures")
        sub.add_argument("--hardware", metavar="ID", help="releases are signed for hardware (default: generic)")
        sub.add_argument("--model", metavar="NAME", help="take releases of this name only")
        sub.add_argument("--classes", type=_names, metavar="A,B,...", help="and with just these classes")
        sub.add_argument("--runtime", choices=("auto", "openvino", "onnxruntime", "opencv"))
        sub.add_argument("--threads", type=int, metavar="N")
        if verb == "run":
            sub.add_argument("--truth", metavar="FILE", help="append `frame id,index,class` where the source knows it")
            sub.add_argument("--preview", metavar="JPG", help="local picture with boxes drawn; not scrubbed")
            sub.add_argument("--window", type=int, metavar="N", help="frames in flight (8)")
            sub.add_argument("--resend-after-s", type=float, metavar="S")
            sub.add_argument("--stats-every-s", type=float, metavar="S")
            sub.add_argument("--spool-bytes", type=int, metavar="N")
            sub.add_argument("--spool-frames", type=int, metavar="N")
            sub.add_argument("--probation-frames", type=int, metavar="N", help="pictures that prove a new model (20)")
            sub.add_argument("--probation-s", type=float, metavar="S", help="or seconds, whichever comes first (60)")
            sub.add_argument("--fsync", action=argparse.BooleanOptionalAction, default=None)
            sub.add_argument("--once", action="store_true", help="end when the source has ended and all is receipted")
            sub.add_argument("--wait", type=float, metavar="S", help="with --once: give up when no receipt came for S")
    return made


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
