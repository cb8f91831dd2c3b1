-- What version 6 adds: past failures that a model must not repeat, and what boards told of their own speed.

-- A picture that a model in use got wrong. Whoever is to be released must get it right (the gate).
create table pin (
    sample      text primary key references sample (id) on delete cascade,
    author      text not null,
    ts          real not null,
    note        text not null default ''
) strict, without rowid;

-- How fast a board runs the probe's layers (docs/devices.md): made on the board, by a person or by its agent.
create table calibration (
    id          integer primary key,
    device      text not null,              -- a profile's id
    camera      text not null default '',   -- who sent it; '' = a person brought it
    author      text not null,
    processor   text not null,              -- what the board calls its processor
    runtime     text not null,
    created     real not null,
    body        text not null,              -- JSON edged.engine.probe.Probed
    retired     real                        -- null = it may be used
) strict;
create index calibration_of on calibration (device, created);
