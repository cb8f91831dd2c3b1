-- The catalogue of one box. Stages hand over through these rows: any stage restarts alone, any test starts at any stage
-- by inserting rows, and the pages read nothing else. Times are seconds since 1970 by the box's clock unless said otherwise.
-- Ids of frames, samples and snapshots are text; JSON columns hold one document each.

-- A camera that has spoken. Configuration (name, task, masks) lives in config.toml, not here.
create table camera (
    id          text primary key,           -- = certificate name = topic level
    first_seen  real not null,
    last_seen   real not null,              -- last message of any kind
    last_frame  real,                       -- receive time of the last frame that was stored
    online      integer not null default 0, -- from the retained state and the last will
    info        text not null default '{}', -- JSON wire.messages.CameraInfo
    stats       text not null default '{}', -- JSON wire.messages.CameraStats
    reported    text not null default '{}'  -- JSON wire.messages.Reported
) strict;

-- A data key per camera and UTC day of receipt, wrapped by the site key. Destroying `wrapped` erases everything sealed by it.
create table data_key (
    id          text primary key,
    camera      text not null,
    day         text not null,
    wrapped     blob,                       -- AES-256-GCM(site key, data key); null once destroyed
    created     real not null,
    destroyed   real
) strict;
create unique index data_key_of on data_key (camera, day) where destroyed is null;

-- A sealed object on disk: objects/<id[:2]>/<id>. AAD = id, camera, kind. Nothing private is ever in here unscrubbed.
create table object (
    id          text primary key,
    kind        text not null check (kind in ('frame', 'crop')),
    camera      text not null,
    key_id      text not null references data_key (id),
    size        integer not null,           -- bytes of ciphertext
    sha256      text not null,              -- of the ciphertext, to find damage without the key
    created     real not null               -- box receive time of its frame: rules retention
) strict;
create index object_created on object (created);
create index object_key on object (key_id);

-- Every frame that was answered for good. The receipt names (id, sha256); a duplicate gets the same receipt and no new row.
create table frame (
    id          text not null,
    camera      text not null references camera (id),
    kind        text not null,              -- 'frame' or 'roi'
    sha256      text not null,              -- of the bytes as they arrived
    seq         integer not null,
    boot        text not null,
    ts          real not null,              -- the camera's capture time: data, never rules retention
    received    real not null,
    width       integer not null,
    height      integer not null,
    model       text not null,              -- sha256 of the camera's model, '' = none
    status      text not null check (status in ('stored', 'withheld', 'refused')),
    detail      text not null default '',
    object      text references object (id),-- the scrubbed picture; null unless stored, or after retention
    scrub       text not null default '{}', -- JSON: {"regions": {"face": n, "plate": n}, "ms": {stage: ms}}
    primary key (camera, id)
) strict, without rowid;
create index frame_received on frame (received);
create index frame_camera_received on frame (camera, received);
create index frame_object on frame (object) where object is not null;

-- A region of a stored frame: what is labelled, trained and tested on.
create table sample (
    id          text primary key,           -- '<camera>:<frame id>:<index>'
    camera      text not null references camera (id),
    frame       text not null,
    ts          real not null,              -- the camera's capture time
    received    real not null,
    x integer not null, y integer not null, w integer not null, h integer not null,
    model       text not null,              -- that predicted; '' = none
    predicted   text not null,              -- class name, '' = none
    score       real not null,
    margin      real not null,
    object      text references object (id) -- the crop (JPEG, 224x224), cut after the frame was scrubbed
) strict;
create index sample_camera_ts on sample (camera, ts);
create index sample_received on sample (received);
create index sample_object on sample (object) where object is not null;

-- Labels are kept apart by source for ever and never overwritten: undo sets `undone`.
create table label (
    id          integer primary key,
    sample      text not null references sample (id),
    class       text not null,              -- a class of the task, or '' = "cannot say / bad crop"
    source      text not null check (source in ('human', 'teacher', 'camera')),
    author      text not null,
    ts          real not null,
    undone      real
) strict;
create index label_sample on label (sample) where undone is null;

-- A frozen list of sample ids with their split; `id` is the hash of `body`, so it cannot change unseen.
create table snapshot (
    id          text primary key,           -- sha256 of body
    created     real not null,
    body        text not null               -- JSON: {"classes": [...], "train": [[sample, class], ...], "tune": [...], "holdout": [...]}
) strict;

-- One turn of the loop.
create table cycle (
    id          integer primary key,
    started     real not null,
    ended       real,
    state       text not null check (state in ('running', 'released', 'refused', 'failed')),
    why         text not null,              -- why it was started, a sentence
    detail      text not null default ''    -- how it ended, a sentence
) strict;

-- The stage ladder of a cycle: snapshot, train, compress, retest, gate, release. A finished stage is never run again.
create table stage (
    cycle       integer not null references cycle (id),
    name        text not null,
    started     real not null,
    ended       real,
    progress    real not null default 0,    -- 0..1
    eta_s       real,
    detail      text not null default '{}', -- JSON facts; on success the stage's outcome
    primary key (cycle, name)
) strict, without rowid;

-- A model file with its lineage. The file is models/<sha256>.onnx (weights beside it as .safetensors when trained here).
create table candidate (
    id          integer primary key,
    cycle       integer not null references cycle (id),
    name        text not null,              -- e.g. 'mobilenet-0.25', 'mobilenet-0.25-int8'
    sha256      text not null,
    size        integer not null,
    parent      text not null default '',   -- sha256 it was started from
    snapshot    text not null references snapshot (id),
    recipe      text not null,              -- JSON: architecture, seed, epochs, compression steps, input_px
    created     real not null
) strict;

-- Numbers measured under one device's limits. Every number says whether it was measured or estimated.
create table report (
    id          integer primary key,
    candidate   integer not null references candidate (id),
    device      text not null,
    body        text not null,              -- JSON retrain.trial.Report
    created     real not null
) strict;

create table verdict (
    id          integer primary key,
    candidate   integer not null references candidate (id),
    report      integer not null references report (id),
    passed      integer not null,
    reasons     text not null,              -- JSON list of sentences with numbers
    created     real not null
) strict;

-- A signed artefact. `number` only ever grows; going back is a new release naming the old hash.
create table release (
    number      integer primary key,
    name        text not null,
    candidate   integer references candidate (id),
    sha256      text not null,
    size        integer not null,
    target      text not null,              -- TUF target path
    classes     text not null,              -- JSON list
    state       text not null check (state in ('rolling', 'complete', 'halted', 'superseded')),
    created     real not null,
    ended       real,
    detail      text not null default ''
) strict;

-- One release on one camera, in the words of AWS IoT Jobs; changed only by publish/rollout.py's table of transitions.
create table delivery (
    release     integer not null references release (number),
    camera      text not null references camera (id),
    status      text not null check (status in
        ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'REMOVED', 'CANCELED')),
    progress    real not null default 0,
    detail      text not null default '',
    offered     real,                       -- when the camera was told
    updated     real not null,
    primary key (release, camera)
) strict, without rowid;

-- Every privileged act (label import, release, erase, byte that left) in a hash chain: hash = sha256(prev || canonical JSON).
create table audit (
    n           integer primary key,
    ts          real not null,
    actor       text not null,
    act         text not null,
    subject     text not null,
    detail      text not null,              -- JSON without personal data
    prev        text not null,
    hash        text not null
) strict;

-- What may leave, one row per object, written before anything is sent; survives a kill.
create table outbox (
    id          integer primary key,
    kind        text not null check (kind in ('metrics', 'labels', 'scrubbed_crops', 'models')),
    key         text not null unique,       -- object name at the cloud
    source      text not null,              -- 'inline' (body) | 'object:<id>' | 'model:<sha256>'
    body        blob,
    size        integer not null,
    state       text not null check (state in ('queued', 'sent', 'refused')),
    tries       integer not null default 0,
    created     real not null,
    sent        real,
    etag        text not null default '',
    detail      text not null default ''
) strict;
create index outbox_queued on outbox (source) where state = 'queued';

-- What a person or a command asked the daemon to do.
create table request (
    id          integer primary key,
    verb        text not null,              -- 'cycle', 'rollback'
    args        text not null default '{}', -- JSON
    author      text not null,
    created     real not null,
    done        real,
    result      text not null default ''
) strict;

-- Running totals by name, e.g. 'withheld:timeout', 'duplicate', 'refused:too_large'.
create table counter (
    name        text primary key,
    n           integer not null
) strict, without rowid;
