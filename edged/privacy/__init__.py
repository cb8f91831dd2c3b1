"""What makes private content go away before anything is kept. It can keep nothing itself: no store, no keys."""
