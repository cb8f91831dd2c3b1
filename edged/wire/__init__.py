"""What both ends of the cable agree on: topics, messages, the link."""
