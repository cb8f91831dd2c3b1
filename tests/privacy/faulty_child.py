"""A scrub child that breaks in the way that the frame's camera id names; every other frame it serves well."""

import os
import signal
import sys
import time

import msgspec

from edged.privacy import child, picture

scrub, write = picture.Scrubber.scrub, child._write
change = msgspec.structs.replace
ORIGINAL = {}


def spoilt(self, request):
    fault = request.camera
    ORIGINAL["jpeg"] = request.jpeg
    done = scrub(self, request)
    if fault == "bug":
        raise ValueError("names nothing of the picture")
    if fault == "memory":
        raise MemoryError
    if fault == "exit":
        os._exit(3)
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "late":
        time.sleep(3600)
    changes = {
        "other-seq": {"seq": request.seq - 1},
        "no-crop": {"crops": ()},
        "more-crops": {"crops": (*done.crops, *done.crops)},
        "crop-of-other-size": {"crops": (done.jpeg,)},
        "raw-with-exif": {"jpeg": request.jpeg[:2] + b"\xff\xe1\x00\x0aExif\x00\x00GP" + request.jpeg[2:]},
        "trailing": {"jpeg": done.jpeg + request.jpeg},
        "truncated": {"jpeg": done.jpeg[:-9]},
        "no-jpeg": {"jpeg": b""},
        "other-size": {"width": 320, "height": 180},
        "lying-size": {"jpeg": done.crops[0]},
        "nan": {"ms": {"total": float("nan")}},
        "minus": {"hidden": {"face": -1}},
    }
    return change(done, **changes[fault]) if fault in changes else done


def written(out, document):
    if getattr(document, "seq", -1) > 0:
        camera = ORIGINAL.get("camera", "")
        if camera == "garbage":
            out.write((64).to_bytes(4, "big") + os.urandom(64))
            return
        if camera == "json":
            body = b'{"tag": "done"}'
            out.write(len(body).to_bytes(4, "big") + body)
            return
        if camera == "endless":
            out.write(b"\xff\xff\xff\xff" + b"x" * 1000)
            return
        if camera == "half":
            out.write(b"\x00\x00\x10\x00half")
            os._exit(0)
        if camera == "hello":
            write(out, ORIGINAL["hello"])
            return
        if camera == "closed":
            out.close()
            time.sleep(3600)
    else:
        ORIGINAL["hello"] = document
    write(out, document)


def answer(scrubber, request, real=child._answer):
    ORIGINAL["camera"] = request.camera
    return real(scrubber, request)


picture.Scrubber.scrub, child._write, child._answer = spoilt, written, answer
sys.exit(child.main())
