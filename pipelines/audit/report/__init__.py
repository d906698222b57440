"""The HTML pages of an audit: the report that can be shared, and the silo's private page."""
