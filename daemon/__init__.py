"""adamctl: starts, stops, and tells. Renders supervisord's configuration; decides nothing that the policy decides."""
