"""What is promised to a record: plan, noise, releases and the privacy statement."""
