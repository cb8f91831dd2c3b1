-- What version 4 adds. Pictures lie in segments; their rows here are an index of what the segments say of themselves.

-- A file segments/<number>.seg. Its bytes up to `recorded` have their rows; a start reads what stands behind.
create table segment (
    number      integer primary key,
    generation  integer not null,           -- how often the file was begun; every record in it says the same
    class       text not null default 'new' check (class in ('new', 'kept')), -- 'kept': what outlived its neighbours
    state       text not null check (state in ('open', 'full', 'free')),
    recorded    integer not null
) strict;

-- Where the sealed bytes begin. Null = a plain file objects/<id[:2]>/<id> of version 3; the next start moves it.
alter table object add column segment integer references segment (number);
alter table object add column place integer;
create index object_segment on object (segment);
