"""From a silo's own tables to the one that it trains on, over Ray."""
