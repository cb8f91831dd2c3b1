"""WALK 3: the page. Rows in, HTML out; labels, masks and requests are the only writes."""
