"""Where bytes live: `file://` and `s3://` behind one small interface."""
