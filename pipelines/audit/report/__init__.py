"""What an audit shows: the page for everyone, and the silo's private one."""
