-- What version 10 adds. Labels of one source, counted since a time, with every question and every look whether a cycle is due:
-- without this index that reads all labels there are.
create index label_source on label (source, ts) where undone is null;
