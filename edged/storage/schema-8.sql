-- What version 8 adds: releases that are meant for some cameras only, and releases that leave some out.

alter table release add column cameras text not null default '[]';  -- JSON list of ids: for these alone; [] = for all
alter table release add column apart text not null default '[]';    -- JSON list of ids: not for these
