-- What version 3 adds.

-- What became of a planted picture: a row for each private thing in it, or one row with kind '' for a picture that came
-- to nothing. Only the newest are kept. No picture is.
create table planted (
    id          integer primary key,
    ts          real not null,
    seed        integer not null,           -- which picture it was
    kind        text not null,              -- 'face', 'plate', '' = not judged
    size        text not null default '',   -- 'small', 'medium', 'large' (privacy/sizes.py)
    px          real not null default 0,    -- width of the box
    easy        integer not null default 0, -- no scrubber that works can miss it
    share       real,                       -- of the box that was covered, 0..1
    hidden      integer,                    -- 1 = as good as all of it
    detail      text not null default ''    -- why it was not judged: a code
) strict;
create index planted_size on planted (kind, size, id);

-- What is wrong with the box until it is not any more; raised and cleared by the daemon, one standing row for each code.
create table alarm (
    id          integer primary key,
    code        text not null,              -- 'privacy_leak', 'privacy_unmeasured'
    text        text not null,              -- a sentence
    since       real not null,
    cleared     real                        -- null = it stands
) strict;
create unique index alarm_standing on alarm (code) where cleared is null;
