-- What version 9 adds: what a camera must be to take a release, as it was signed, so that no other is offered it.

alter table release add column hardware text not null default '[]';    -- JSON list of hardware ids; '[]' = not known here: any
alter table release add column min_agent text not null default '';     -- the oldest agent that can run it, '' = any
