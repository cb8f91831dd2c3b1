-- What version 2 adds to schema.sql.

-- A mask painted for a camera, beyond those of config.toml: burned into every picture that comes while it holds, before
-- anything is looked for. Rows are never deleted; pictures stay as they were masked when they came.
create table mask (
    id          integer primary key,
    camera      text not null,              -- its id; it need not have spoken yet
    name        text not null,
    polygon     text not null,              -- JSON [[x, y], ...]: corners as shares of width and height, 0..1
    author      text not null,
    created     real not null,
    removed     real                        -- null = it holds
) strict;
create index mask_camera on mask (camera) where removed is null;
