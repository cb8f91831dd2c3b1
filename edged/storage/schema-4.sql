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

-- Retention walks a camera's objects in the order they came in (rowid), not by a clock that may be wrong.
drop index object_created;
create index object_camera on object (camera);

-- What each camera has in the store, and what came in per hour: kept by triggers, so that nobody has to add up all rows.
-- They do not see `insert or replace`: nothing writes objects so.
create table holding (
    camera      text primary key,
    objects     integer not null,
    bytes       integer not null
) strict, without rowid;
create table intake (
    camera      text not null,
    hour        integer not null,           -- hours since 1970 by the box's clock
    bytes       integer not null,
    primary key (camera, hour)
) strict, without rowid;
insert into holding select camera, count(*), sum(size) from object group by camera;
insert into intake select camera, cast(created / 3600 as integer), sum(size) from object group by 1, 2;
create trigger object_in after insert on object begin
    insert into holding values (new.camera, 1, new.size)
        on conflict do update set objects = objects + 1, bytes = bytes + new.size;
    insert into intake values (new.camera, cast(new.created / 3600 as integer), new.size)
        on conflict do update set bytes = bytes + new.size;
end;
create trigger object_out after delete on object begin
    update holding set objects = objects - 1, bytes = bytes - old.size where camera = old.camera;
end;
create trigger object_changed after update of camera, size on object
when new.size <> old.size or new.camera <> old.camera begin
    update holding set objects = objects - 1, bytes = bytes - old.size where camera = old.camera;
    insert into holding values (new.camera, 1, new.size)
        on conflict do update set objects = objects + 1, bytes = bytes + new.size;
end;

-- Objects with a rowid up to `n` had come in by `last`, in seconds that the box counted itself (storage/ageing.py).
create table arrival (
    n           integer primary key,
    first       real not null,
    last        real not null,
    wall        real not null               -- what the box's clock said then, right or wrong
) strict;

-- The number of the newest object is given again when that was deleted: nothing may say of it when it came.
create trigger object_newest_out after delete on object
when old.rowid > (select coalesce(max(rowid), 0) from object) begin
    delete from arrival where n > (select min(n) from arrival where n >= (select coalesce(max(rowid), 0) from object));
    update arrival set n = (select coalesce(max(rowid), 0) from object)
        where n > (select coalesce(max(rowid), 0) from object);
end;

-- What retention remembers from run to run, by name.
create table ageing (
    name        text primary key,
    value       real not null
) strict, without rowid;

-- Data keys that an erasure still has to destroy, once what else they seal was sealed anew.
create table doomed_key (
    id          text primary key,
    request     integer not null references request (id)
) strict, without rowid;

-- The bytes of data keys left for the keyring (storage/keyring.py): `wrapped` is null but in a store that was not opened
-- with its site key since. A camera and day may have several live keys; the newest of the keyring seals.
drop index data_key_of;
create index data_key_of on data_key (camera, day) where destroyed is null;

-- Numbers by name. 'catalogue' counts starts, as the keyring does: an older edged.db put back is known by it. 'blobs_left':
-- wrapped keys were moved to the keyring, and the WAL and the pages that held them are still to be overwritten.
create table mark (
    name        text primary key,
    value       integer not null
) strict, without rowid;

-- What the daemon measures of itself and rises and falls, for the page: the newest value of each name.
create table gauge (
    name        text primary key,
    value       real not null,
    ts          real not null               -- when it was written
) strict, without rowid;

-- Labels are counted as they come, since a label that is undone must not make a total fall.
insert into counter select 'labels:' || source, count(*) from label group by source;
create trigger label_counted after insert on label begin
    insert into counter values ('labels:' || new.source, 1) on conflict do update set n = n + 1;
end;

-- The numbers of a camera's frames since it booted, and which of them never came (storage/gaps.py). Bounded.
create table sequence (
    camera      text not null,
    boot        text not null,
    first       integer not null,
    last        integer not null,
    holes       text not null,              -- JSON: [[first, last, noticed], ...], ascending
    lost        integer not null,           -- in holes that are not listed any more
    updated     real not null,
    primary key (camera, boot)
) strict, without rowid;

-- What left the premises is counted as it leaves; the rows of the outbox may go one day.
insert into counter select 'sync_bytes', sum(size) from outbox where state = 'sent' having sum(size) > 0;
create trigger parcel_counted after update of state on outbox when new.state = 'sent' and old.state <> 'sent' begin
    insert into counter values ('sync_bytes', new.size) on conflict do update set n = n + new.size;
end;
