-- What version 5 adds: what the box's own models saw in the crops, models from outside, and drift.

-- What the stage `survey` saw in a crop. Gone as soon as the crop is: nothing here outlives the picture it tells of.
create table insight (
    sample      text primary key references sample (id) on delete cascade,
    hash        integer not null,           -- 64-bit difference hash of the crop, as a signed number: finds near-duplicates
    model       text not null default '',   -- sha256 of the model that looked; '' = there was none yet
    answer      text not null default '',   -- its class
    score       real not null default 0,    -- 0..1
    margin      real not null default 0,    -- 0..1
    features    blob,                       -- little-endian float16: its last features, projected (docs/learning.md); null = none
    ts          real not null
) strict, without rowid;
create trigger insight_out after update of object on sample when new.object is null begin
    delete from insight where sample = new.id;
end;

-- How sure a teacher was of a label, 0..1; null for people and cameras.
alter table label add column score real;
create index label_author on label (author) where undone is null;

-- A model that was brought here: a teacher, or one trained on a bigger machine. Its file is models/<sha256>.onnx.
create table brought (
    sha256      text primary key,
    kind        text not null check (kind in ('teacher', 'candidate')),
    name        text not null,
    classes     text not null,              -- JSON list, in the order of its outputs
    px          integer not null,
    weights     text not null default '',   -- sha256 of models/<sha256>.safetensors; '' = it cannot be trained on
    card        text not null default '{}', -- JSON: where it came from, what it was trained on
    author      text not null,
    created     real not null,
    retired     real                        -- null = it may be used
) strict;

-- Every evaluation of a drift test; old ones are thinned. Alarms that stand are in `alarm` as well.
create table drift (
    id          integer primary key,
    ts          real not null,
    camera      text not null,
    class       text not null default '',   -- '' = all
    test        text not null check (test in ('confidence', 'features', 'audit', 'recall')),
    model       text not null,              -- whose answers were tested
    n           integer not null,           -- samples in the window
    score       real not null,              -- statistic as a share of what raises the alarm: 1 = the line
    p           real,                       -- null where the test has none
    alarm       integer not null default 0,
    detail      text not null default ''    -- a sentence
) strict;
create index drift_of on drift (camera, test, ts);
