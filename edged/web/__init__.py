"""WALK 3: the page. Rows in, HTML out; labels and requests are the only writes."""
