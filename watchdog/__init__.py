"""Keeps a run alive: observes, decides by one pure policy, acts. Never imports torch or a sibling folder of Adam."""
