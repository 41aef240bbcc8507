"""Generated from `proto/` by `scripts/gen_proto.py`; only a package's wire code imports it."""
