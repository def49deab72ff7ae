"""Administration of spool files, from any process."""
