"""The privacy guarantee for a record: plan, noise, releases and the privacy statement."""
