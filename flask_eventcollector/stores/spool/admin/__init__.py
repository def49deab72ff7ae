"""What an operator does with spool files, from any process."""
