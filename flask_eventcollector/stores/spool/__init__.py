"""The store on disk, which outlives the process."""
