-- What version 7 adds: releases that wait for a person, that are paused, that are of teachers; hashes that are blocked; what
-- cameras said of a new model's health, and whether they signed it.

-- The states of a release are those of publish/rollout.py's table: the check of version 1 knew neither 'waiting' nor
-- 'paused', and SQLite changes no check, so both tables are made anew, with their rows.
create table release_7 (
    number      integer primary key,
    name        text not null,
    candidate   integer references candidate (id),
    sha256      text not null,
    size        integer not null,
    target      text not null,              -- TUF target path
    classes     text not null,              -- JSON list
    state       text not null check (state in ('waiting', 'rolling', 'paused', 'complete', 'halted', 'superseded')),
    created     real not null,
    ended       real,
    detail      text not null default ''
) strict;
insert into release_7 select * from release;
create table delivery_7 (
    release     integer not null references release_7 (number),
    camera      text not null references camera (id),
    status      text not null check (status in
        ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'REMOVED', 'CANCELED')),
    progress    real not null default 0,
    detail      text not null default '',
    offered     real,                       -- when the camera was told
    updated     real not null,
    primary key (release, camera)
) strict, without rowid;
insert into delivery_7 select * from delivery;
drop table delivery;
drop table release;
alter table release_7 rename to release;
alter table delivery_7 rename to delivery;

-- 'student': what cameras run; 'teacher': what labels on the box, which no camera is offered.
alter table release add column kind text not null default 'student' check (kind in ('student', 'teacher'));
alter table release add column started real;                        -- when cameras were first offered it
alter table release add column changed real;                        -- when `state` changed last, and by whom
alter table release add column actor text not null default '';
alter table release add column rules text not null default '{}';    -- JSON publish.rollout.Rules, as they were when it started
alter table release add column returns_to integer;                  -- the release whose bytes it names again

alter table delivery add column canary integer not null default 0;
alter table delivery add column health text not null default '{}';  -- JSON wire.messages.Health; '{}' = nothing was said
alter table delivery add column unwell text not null default '';    -- why it counts as failed although the model runs
alter table delivery add column signed integer;                     -- 1 the camera signed its last word, 0 it did not, null = none

-- What of a camera's deliveries stands, and what has not ended, is asked for twice a second, after years of nightly releases.
create index delivery_standing on delivery (camera, release) where status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED');
create index delivery_open on delivery (release) where status in ('QUEUED', 'IN_PROGRESS');

-- Bytes that are never released or offered again, unless a person says so.
create table blocked (
    sha256      text primary key,
    release     integer not null,           -- that was halted
    reason      text not null,
    author      text not null,
    created     real not null
) strict, without rowid;
insert or ignore into blocked select sha256, number, detail, 'edged', coalesce(ended, created) from release
    where state = 'halted' and sha256 not in (select sha256 from release where state = 'complete') order by number desc;
