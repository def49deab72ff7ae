"""The example application: its page, commands, script, console and worker."""
