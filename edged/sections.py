"""The sections of config.toml: what each key means, its range, and what it is where the file says nothing.

Guarantees: a value of a section is frozen and within its range. Does not guarantee that sections agree with each other, or that
a size is one: `config.py` looks. Sizes are bytes, or text like "40GB" (powers of 1000).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]  # `$` alone lets a line feed pass
Ratio = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: frozen, and no key that is not declared here."""


class Server(Section, frozen=True):
    site: Name
    id: Name = "edge-1"
    data_dir: str = "/var/lib/edged"


class MqttTls(Section, frozen=True):
    ca: str = ""  # default: <data_dir>/keys/ca.pem
    cert: str = ""
    key_file: str = ""


class Mqtt(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 8883
    bind: str = ""  # where the embedded broker listens; default: host. "0.0.0.0" = every address of this box
    stats_interval_s: Positive = 60
    tls: MqttTls = MqttTls()


class Homeassistant(Section, frozen=True):
    """Whether the site shows itself in Home Assistant (docs/home-assistant.md)."""

    discovery: bool = False
    discovery_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,63}(/[A-Za-z0-9_-]{1,63}){0,4}$(?!\n)")] = (
        "homeassistant"
    )


class Web(Section, frozen=True):
    listen: str = "127.0.0.1:8480"
    threads: Annotated[int, Meta(ge=2, le=64)] = 8


class Ingest(Section, frozen=True):
    """What a camera may send, and how much waits here (edged/admit.py)."""

    frames_per_s: Positive = 120  # of one camera: 30 pictures of 720p, or their four regions one by one
    burst: Annotated[float, Meta(ge=1)] = 240  # frames at once after a rest
    bytes_per_s: int | str = "8MB"  # of one camera
    queue_frames: Annotated[int, Meta(ge=1)] = 64  # that wait for a scrub child, of all cameras
    queue_bytes: int | str = "64MB"  # held from arrival to receipt, of all cameras


class Storage(Section, frozen=True):
    max_bytes: int | str = "40GB"
    max_age_days: Positive = 30
    per_camera_max_bytes: int | str = 0  # 0 = only max_bytes counts; [[camera]] max_bytes overrides it
    low_water: Annotated[float, Meta(ge=0.5, le=1)] = (
        0.9  # a store that is full is thinned down to this share of its limit
    )
    keep_last: tuple[Literal["labelled", "holdout", "champion", "previous"], ...] = (
        "labelled", "holdout", "champion", "previous",
    )  # in this order, after all others, and never by age  # fmt: skip
    row_max_age_days: Positive = (
        365  # rows of frames whose picture is gone; earlier when they take a tenth of max_bytes
    )
    min_free: int | str = "500MB"
    reserve: int | str = (
        "16MB"  # given back when the disk is full, so that labels, audit and roll-back work then; 0 = none
    )
    allow_network: bool = False  # a store on a network file system: its locks and flushes may not hold; your risk
    keep_backups: Annotated[int, Meta(ge=1, le=31)] = 3  # daily copies of the catalogue under <data_dir>/backups
    key_file: str = ""  # default: <data_dir>/keys/storage.key, or systemd's credential "storage-key"
    key_copy: str = ""  # default: beside the key file, <name>.copy; none for a credential
    keyring_copy: str = ""  # default: <data_dir>/keys/keyring; better a folder on another disk


class Schedule(Section, frozen=True):
    # When the box copies its catalogue for itself (UTC); "" = never. Backups elsewhere: `edged db backup`.
    backup: Annotated[str, Meta(pattern=r"^(daily ([01][0-9]|2[0-3]):[0-5][0-9])?$")] = "daily 03:30"


class Detector(Section, frozen=True):
    """An installer's own detector (docs/privacy.md)."""

    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,15}$")]  # person, text, screen or a word of your own
    file: str
    layout: Literal["boxes", "yolo", "code"] = "boxes"
    threshold: Annotated[float, Meta(ge=0.01, le=0.99)] = 0.3
    long_side: Annotated[int, Meta(ge=64, le=1920, multiple_of=32)] = 640
    labels: tuple[Count, ...] = ()
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the file, so that no other starts


class Privacy(Section, frozen=True):
    faces: bool = True
    plates: bool = True
    persons: bool = False  # needs a [[privacy.detector]] of yours, as do screens
    text: bool = False  # burned-in text: names, dates, readings
    screens: bool = False
    strict: bool = False  # faces at full size, by every face network there is: slower, leaks less
    face_model: str = ""  # an owner's YuNet file instead of the built-in CenterFace: faster
    margin: Annotated[float, Meta(ge=0, le=2)] = 0.25
    unjudged: Literal["withhold", "blank", "keep"] = "withhold"  # a picture too dark or too blurred to judge
    hold_frames: Annotated[int, Meta(ge=0, le=300)] = 10  # a face that is lost stays covered so long
    back_frames: Annotated[int, Meta(ge=0, le=30)] = 5  # and was covered so long before it was found
    delay_s: Annotated[float, Meta(ge=0, le=30)] = 0.5  # a frame waits at most so long for later ones; 0 = for none
    gap_s: Positive = 1.0  # frames further apart have nothing to do with each other
    planted_every_s: Annotated[float, Meta(ge=0)] = 600  # a picture of known content checks the scrubber; 0 = never
    planted_alarm: Ratio = 0.9  # alarm when less is hidden than this share of what a healthy scrubber hides
    children: Annotated[int, Meta(ge=1, le=16)] = 2
    deadline_s: Positive = 15  # for one frame; on a busy box a look takes seconds, and a late child is killed
    runtime: Literal["auto", "openvino", "onnxruntime"] = "auto"
    detector: tuple[Detector, ...] = ()


class Mask(Section, frozen=True):
    name: str
    polygon: Annotated[tuple[tuple[Ratio, Ratio], ...], Meta(min_length=3)]  # corners as shares of width and height


class Metrics(Section, frozen=True):
    enabled: bool = True  # /metrics on the page, which listens on the loopback only


class Watchdog(Section, frozen=True):
    """When a daemon that stands still ends itself (edged/pulse.py, edged/watchdog.py)."""

    every_s: Annotated[float, Meta(ge=0.5, le=60)] = 5  # between two beats
    # For a part that has no deadline of its own; a flush of bad flash takes seconds.
    patience_s: Annotated[float, Meta(ge=3, le=300)] = 15
    loop_s: Annotated[float, Meta(ge=0, le=300)] = 25  # without a turn of the main loop, 5 or more; 0 = only systemd's


class Camera(Section, frozen=True):
    id: Name
    name: str = ""
    hardware: Name = "generic"
    max_bytes: int | str = 0  # of its pictures; 0 = [storage] per_camera_max_bytes
    max_age_days: Annotated[float, Meta(ge=0)] = 0  # 0 = [storage] max_age_days
    mask: tuple[Mask, ...] = ()


class Task(Section, frozen=True):
    classes: Annotated[tuple[str, ...], Meta(min_length=2, max_length=9)]
    name: Name = "task"
    holdout: Annotated[float, Meta(ge=0.05, le=0.5)] = 0.2
    block_s: Positive = 900  # frames within one block of camera time never part over train and hold-out


class Teacher(Section, frozen=True):
    """A bigger model that labels what it is sure of; `edged model import FILE --teacher` brings it."""

    model: str = ""  # its name or the beginning of its SHA-256; "" = the newest that was brought, if any
    accept_above: Ratio = 0  # its labels count from this score on; 0 = as measured on audit labels


class Label(Section, frozen=True):
    queue_size: Annotated[int, Meta(ge=1, le=10_000)] = 200
    random_audit: Annotated[float, Meta(ge=0.02, le=0.5)] = 0.1  # share of questions that are drawn blindly
    human_min_agreement: Annotated[float, Meta(ge=0.5, lt=1)] = 0.9  # of a teacher's labels with people's
    teacher: Teacher = Teacher()


class Drift(Section, frozen=True):
    """When a camera's world counts as changed (docs/learning.md)."""

    enabled: bool = True
    window: Annotated[int, Meta(ge=50, le=100_000)] = 500  # newest regions of a camera that are compared
    alert_p: Annotated[float, Meta(gt=0, lt=0.5)] = 0.001  # chance of a false alarm in one window


class Train(Section, frozen=True):
    new_labels: Annotated[int, Meta(ge=1)] = 300  # a cycle starts by itself after this many new human labels
    on_drift: bool = True  # and when drift is noticed
    every_hours: Annotated[float, Meta(ge=0)] = 0  # and so long after the last one, if there is a new label; 0 = never
    # Cycles start by themselves only then (the box's local time), "22:00-05:00"; "" = always. One asked for starts at once.
    quiet_hours: Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9])?$")] = ""
    max_memory: int | str = "1500MB"  # of a stage; its child is refused more
    stuck_minutes: Positive = 20  # a stage that reports nothing for so long is ended
    replay: Ratio = 0.3  # share of old pictures among those that are learned from, against forgetting
    camera_cap: Annotated[float, Meta(gt=0, le=1)] = (
        0.6  # no camera is more than this share of them (three cameras or more)
    )
    reuse: bool = True  # a past model that is good enough is taken before anything is trained
    reuse_per_camera: bool = False  # and one that is better at some cameras is offered to those alone
    # Pictures without a label that teach, at most: those that show what a labelled one shows (docs/learning.md); 0 = none.
    unlabelled: Annotated[int, Meta(ge=0, le=20_000)] = 3000
    architecture: str = "mobilenet-0.25"
    input_px: Annotated[int, Meta(ge=28, le=224)] = (
        64  # docs/decisions/0006: as good as 96 on two car parks, in half the time
    )
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 14
    max_minutes: Positive = 120
    threads: Annotated[int, Meta(ge=1, le=64)] = (
        1  # two were five times slower than one while the box is busy (measured)
    )
    seed: Count = 1


class Compress(Section, frozen=True):
    methods: Annotated[tuple[str, ...], Meta(min_length=1)] = ("int8", "none")  # chains of steps: docs/compression.md
    search_minutes: Annotated[float, Meta(ge=0)] = 0  # for a search over more chains; 0 = none is made
    max_loss: Annotated[float, Meta(ge=0, le=0.2)] = 0.01  # that int8's accuracy control allows on the tune split


class Device(Section, frozen=True):
    id: str = "atom-x5-e3940"


class Gate(Section, frozen=True):
    max_loss: Annotated[float, Meta(ge=0, le=0.2)] = 0.02
    sure: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.95  # that no more is lost; less asks for fewer samples
    max_class_loss: Annotated[float, Meta(ge=0, le=1)] = 0.05  # of one class or camera, as counted
    max_class_bound: Annotated[float, Meta(ge=0, le=1)] = 0.2  # of one class or camera, `sure`
    min_gain: Annotated[float, Meta(ge=0, le=1)] = 0
    min_holdout: Count = 50
    min_group: Annotated[int, Meta(ge=1)] = 30  # samples of a class or camera from which on it is judged by itself
    pinned: Literal["all", "kept"] = "all"  # pinned pictures: all right, or those that the model before has right
    min_fps: Annotated[float, Meta(ge=0)] = 30
    max_memory: int | str = "512MB"
    max_size: int | str = "6MB"
    max_packed: int | str = 0  # of the packed form (docs/format.md); 0 = any
    max_power: Annotated[float, Meta(gt=0, le=1000)] = 10  # watts, where they are measured


class Retest(Section, frozen=True):
    device: Device = Device()
    gate: Gate = Gate()
    seconds: Annotated[float, Meta(gt=0, le=120)] = 5  # for measuring a candidate's speed
    workers: Annotated[int, Meta(ge=0, le=256)] = 0  # processes at a time, each on a core of its own; 0 = every core
    # Other hosts (docs/retest.md): a Dask scheduler, "tls://...". The hold-out's crops go there. "" = this box only.
    scheduler: Annotated[str, Meta(pattern=r"^((tcp|tls)://.+)?$")] = ""


class Rollout(Section, frozen=True):
    """Who is offered a release when, and what halts it (docs/rollout.md). A release keeps the rules that it started by."""

    auto: bool = True  # a release that passed the gate starts by itself; false = `edged rollout start` does it
    canary: Annotated[int, Meta(ge=1)] = 1
    wait_s: Annotated[float, Meta(ge=0)] = 3600  # that the canaries are watched, once they run it
    steps: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1, max_length=20)] = (0.5, 1.0)
    timeout_s: Positive = 900  # without a word of a camera that is there
    abort_failed: Ratio = 0.05  # share of those that finished
    abort_min_executed: Annotated[int, Meta(ge=1)] = 3
    # A camera that runs it and says that it does worse than these counts as failed (0, 1, 1 = never).
    min_agreement: Ratio = 0.3  # with the model before it, of the regions that both answered
    # Of the frames per second that the model before it made; not while it makes retest.gate.min_fps.
    max_slowdown: Ratio = 0.5
    max_shift: Ratio = 0.7  # distance of their histograms of confidence
    min_regions: Annotated[int, Meta(ge=1)] = 20  # from which on agreement and shift count
    signed_receipts: bool = True  # what cameras say of themselves and models counts only if signed by their key
    rate_bytes_per_s: int | str = "30MB"


class Signing(Section, frozen=True):
    socket: str = ""  # of a signer under a user of its own (docs/trust.md); "" = a process of ours for each signature


class SyncRule(Section, frozen=True):
    kind: Literal["metrics", "labels", "scrubbed_crops", "models"]
    allow: bool


class Sync(Section, frozen=True):
    endpoint: str = ""
    bucket: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_file: str = ""  # file of mode 0600 with the secret access key
    interval_s: Positive = 300
    rule: tuple[SyncRule, ...] = ()

    def rules(self) -> dict[str, bool]:
        """Kind -> allowed; a kind without a rule is not."""
        return {str(r.kind): r.allow for r in self.rule}
